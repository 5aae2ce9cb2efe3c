"""Tensor parallelism: DeepSpeed cuts the layers of a stage in place (AutoTP)."""

import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from muai_deepspeed.place import Place


class _StageGroup:
    """What DeepSpeed asks of a `mpu`; without one it ignores `tp_group`."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def get_model_parallel_group(self) -> Any:
        return self._group


def prepare_environment(place: Place, device_index: int) -> None:
    """What DeepSpeed reads instead of asking torch. The world is the stage."""
    os.environ.update(
        RANK=str(place.shard),
        LOCAL_RANK=str(device_index),
        WORLD_SIZE=str(place.shards),
        LOCAL_SIZE=str(place.shards),
    )


def cut(network: PreTrainedModel, place: Place, dtype: torch.dtype) -> PreTrainedModel:
    """Leaves this rank's part of every layer. Collective: all shards of the stage call it.

    Raises AssertionError or ValueError when DeepSpeed does not know how to cut the model.
    """
    if place.shards == 1:
        return network
    import deepspeed
    from deepspeed import comm

    # The all-reduce over shared memory knows one group only, compiles itself at the first start,
    # leaves 69 MB in /dev/shm for every rank and spins while it waits: gloo does none of it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    comm.init_distributed(verbose=False)
    group = torch.distributed.group.WORLD
    engine = deepspeed.init_inference(
        network,
        config={
            "dtype": dtype,
            "replace_with_kernel_inject": False,
            "tensor_parallel": {
                "tp_size": place.shards,
                "tp_group": group,
                "mpu": _StageGroup(group),
            },
        },
    )
    module: nn.Module = engine.module
    assert isinstance(module, PreTrainedModel)
    return module
