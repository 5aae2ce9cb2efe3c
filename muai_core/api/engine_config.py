"""What a program asks of an engine."""

import os
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from muai_core.config.overrides import OPTIMIZATION_PREFIX


class EngineConfig(Struct, frozen=True, kw_only=True):
    """What all engines have in common. The values are checked when a model is loaded."""

    #: `load_model` looks a model up here first: name → folder, file or `package:PACKAGE/FILE`.
    models: Mapping[str, str | os.PathLike[str]] = {}
    #: auto: GPUs, or what `fallback` allows; cpu: never a GPU.
    device: Literal["auto", "cpu"] = "auto"
    #: False: what cannot be allocated as asked for is an error.
    fallback: bool = True
    dtype: str = "auto"
    #: Longest prompt plus answer, in tokens. None: what the model says.
    max_model_len: int | None = None
    #: Sequences of full length whose keys and values must fit at once.
    concurrency: int = 1
    #: What one rank claims on its device. None: as estimated, on GPUs of its own.
    memory_gib: float | None = None
    #: The interpreter that has the engine. None: this program's.
    python: str | None = None
    #: Environment variables for the engine's processes.
    env: Mapping[str, str] = {}
    #: The engine plugin's own options, as under `engine_options` in a config file.
    options: Mapping[str, Any] = {}
    #: How long the weights may take to load.
    load_timeout_s: float = 600.0

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """Tensor- and pipeline-parallel size; None: as the environment says, else 1."""
        return None, None


class VLLMConfig(EngineConfig, frozen=True, kw_only=True):
    """What VLLMEngine is to do. Unset, `MUAI_OPT_VLLM_TENSOR_PARALLEL` counts, else 1."""

    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.tensor_parallel_size, self.pipeline_parallel_size


class DeepSpeedConfig(EngineConfig, frozen=True, kw_only=True):
    """What DeepSpeedEngine is to do.

    Unset, `MUAI_OPT_DEEPSPEED_TENSOR_PARALLEL` and `MUAI_OPT_DEEPSPEED_PIPELINE_PARALLEL` count,
    else 1.
    """

    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.tensor_parallel, self.pipeline_parallel


def optimization_variables() -> dict[str, str]:
    """Of the environment what is documented for engines; the rest is for `muai run`."""
    return {
        name: value for name, value in os.environ.items() if name.startswith(OPTIMIZATION_PREFIX)
    }
