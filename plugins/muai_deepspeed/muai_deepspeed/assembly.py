"""From arguments to a rank that works: meets the others, loads its stage, cuts it, connects."""

import argparse
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from muai_torch.acceleration import accelerate
from muai_torch.loading import LoadOptions, choose_dtype, default_cache_folder, folder_of
from muai_torch.source import ModelSource
from torch._C._distributed_c10d import TCPStore
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from muai_deepspeed import parallel, ranks, selfcheck
from muai_deepspeed.families import VERIFIED, broken_reason
from muai_deepspeed.pipeline import Follower, Followers, PipelineModel
from muai_deepspeed.place import Place
from muai_deepspeed.stage import (
    RefusedError,
    Stage,
    StageOptions,
    build,
    own_weights,
    read_config,
)
from muai_deepspeed.worker import usable_cores

_logger = logging.getLogger(__name__)
A_DAY = timedelta(days=1)


def lead_replica(arguments: argparse.Namespace, source: ModelSource) -> PipelineModel:
    """Rank 0. Returns when all ranks are ready and the logits are right. Raises `RefusedError`."""
    _set_up(arguments)
    place = _partial_place(arguments)
    followers = Followers()
    store = None
    if place.world > 1:
        store = ranks.meet(place, arguments.master_port)
        door = ranks.Door(place, store)
        for rank, peer in door.admit(set(range(1, place.world))).items():
            inbox = ranks.listen(peer, f"rank {rank}", arguments.rank_timeout_s, followers.stopping)
            followers.add(rank, peer, inbox)
    options = _load_options(arguments, source)
    folder = folder_of(options)
    if store is not None:
        store.set("folder", str(folder))
    place, stage, stage_options = _load(arguments, place, folder, store)
    successor = None
    if place.successor is not None and store is not None:
        successor = ranks.visit(place, store, place.successor)
    trust = arguments.trust_remote_code
    config = read_config(folder, trust)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust)
    texts = (config, _generation_config(folder), tokenizer)
    model = PipelineModel(stage, place, followers, successor, texts)
    layers = sum(place.layers)
    if arguments.skip_self_check or place.world == 1 or config.model_type in VERIFIED:
        return model
    shape = f"tensor_parallel_size {place.shards} and pipeline_parallel_size {place.stages}"
    selfcheck.check(model.executor(), stage_options, layers, model.vocabulary, shape)
    return model


def follow_replica(
    arguments: argparse.Namespace, source: ModelSource, connected: Callable[[], None]
) -> None:
    """Any other rank; works until the process ends. `connected`: rank 0 is known from here on.

    Raises `RefusedError`, `PeerLostError`, and what loading raises.
    """
    _set_up(arguments)
    place = _partial_place(arguments)
    store = ranks.meet(place, arguments.master_port)
    leader = ranks.visit(place, store, 0)
    connected()
    commands = ranks.listen(leader, "rank 0", arguments.rank_timeout_s)
    store.wait(["folder"], A_DAY)
    folder = Path(store.get("folder").decode())
    place, stage, _ = _load(arguments, place, folder, store)
    hidden = None
    if not place.is_first:
        before = place.rank - place.shards
        peer = ranks.Door(place, store).admit({before})[before]
        hidden = ranks.receive_values(peer, f"rank {before}")
    successor = None
    if place.successor is not None:
        successor = ranks.visit(place, store, place.successor)
    Follower(stage, place, leader, commands, hidden, successor).run()


def _set_up(arguments: argparse.Namespace) -> None:
    disable_progress_bar()  # type: ignore[no-untyped-call]
    local = usable_cores() // arguments.world_size if arguments.device == "cpu" else usable_cores()
    torch.set_num_threads(arguments.num_threads or max(1, local))
    index = 0
    if arguments.device == "cuda":
        # With one visible device every rank has been given its own.
        index = arguments.rank % torch.cuda.device_count()
        torch.cuda.set_device(index)
    parallel.prepare_environment(_partial_place(arguments), index)


def _partial_place(arguments: argparse.Namespace) -> Place:
    """The place while the number of layers is not known: shards and stages are right."""
    return Place(
        rank=arguments.rank,
        shards=arguments.tensor_parallel_size,
        layers=(1,) * arguments.pipeline_parallel_size,
    )


def _full_place(arguments: argparse.Namespace, total: int) -> Place:
    stages = arguments.pipeline_parallel_size
    if arguments.layers is None:
        small, larger = divmod(total, stages)
        layers = tuple(small + (stage < larger) for stage in range(stages))
    else:
        layers = arguments.layers
    if len(layers) != stages or sum(layers) != total or min(layers) < 1:
        raise RefusedError(
            f"--layers {','.join(map(str, layers))}: {stages} stages need {stages} positive "
            f"numbers that add up to the model's {total} layers"
        )
    return Place(rank=arguments.rank, shards=arguments.tensor_parallel_size, layers=layers)


def _load_options(arguments: argparse.Namespace, source: ModelSource) -> LoadOptions:
    return LoadOptions(
        source=source,
        dtype=arguments.dtype,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        cache_folder=arguments.cache_folder or default_cache_folder(),
    )


def _load(
    arguments: argparse.Namespace, place: Place, folder: Path, store: TCPStore | None
) -> tuple[Place, Stage, StageOptions]:
    config = read_config(folder, arguments.trust_remote_code)
    reason = broken_reason(config.model_type, place.shards)
    if reason is not None:
        raise RefusedError(reason)
    total: int = config.get_text_config(decoder=True).num_hidden_layers
    place = _full_place(arguments, total)
    begin, end = place.span
    options = StageOptions(
        folder=folder,
        begin=begin,
        end=end,
        dtype=choose_dtype(arguments.dtype, arguments.device),
        trust_remote_code=arguments.trust_remote_code,
    )
    if store is not None:
        backend = "nccl" if arguments.device == "cuda" else "gloo"
        ranks.join_group(place, store, backend, arguments.rank_timeout_s)
    network, views = build(options)
    if store is not None:
        ranks.wait_for_shards(place, store, "loaded")
    try:
        with ranks.collective(place.shards):
            network = parallel.cut(network, place, options.dtype)
    except (AssertionError, ValueError) as error:
        raise RefusedError(f"DeepSpeed cannot split {config.model_type}: {error}") from error
    torch.nn.Module.to(network, arguments.device)
    own_weights(network, views)
    accelerate(network)
    _logger.info("layers %d to %d, shard %d of %d", begin, end - 1, place.shard + 1, place.shards)
    stage = Stage(network, is_first=place.is_first, is_last=place.is_last)
    return place, stage, options


def _generation_config(folder: Path) -> GenerationConfig | None:
    if not (folder / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(str(folder))
