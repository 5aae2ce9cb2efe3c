"""What a model needs of its devices' memory: from the config, its engine, or its files."""

from collections.abc import Collection
from pathlib import Path

from msgspec import Struct, structs

from muai_core.config.loaded import draft_deployment, wanted_sizes
from muai_core.config.schema import Config
from muai_core.model.architecture import ModelDescription, ModelError
from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
from muai_core.model.memory import MemoryNeeds, Shape
from muai_core.model_files import describe_model
from muai_core.planning.calibration import Calibrate, uncalibrated
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.planning.shapes import refusal
from muai_core.plugin.engine import Complaint, Engine
from muai_core.plugin.memory import MemoryProfile


class Impossible(Exception):
    """The config asks for what the model or the engine cannot do."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(complaint.message)
        self.complaint = complaint


class Wish(Struct, frozen=True, kw_only=True):
    """One model of a config on one engine, before its memory is known."""

    deployment: Deployment
    engine: Engine
    #: None: the planner chooses.
    tensor_parallel_size: int | None
    pipeline_parallel_size: int | None
    #: Its files, where the source is a path.
    path: Path | None

    @classmethod
    def of(
        cls, config: Config, name: str, engine: Engine, *, source: str, path: Path | None
    ) -> "Wish":
        tensor, pipeline = wanted_sizes(config, name, engine.name)
        return cls(
            deployment=draft_deployment(config, name, engine.name, engine, source=source),
            engine=engine,
            tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline,
            path=path,
        )


def with_memory(
    wish: Wish,
    platforms: Collection[Platform] | None = None,
    calibrate: Calibrate = uncalibrated,
) -> Deployment:
    """The deployment with its need for memory, for every shape that is possible.

    `platforms` are those of the devices there are; None: not known yet. Reads headers of model
    files. Raises Impossible, and whatever the engine raises.
    """
    deployment = wish.deployment
    if deployment.memory_bytes_per_device is not None:
        return structs.replace(deployment, memory_reason="memory_gib in the config")
    model, unreadable = _described(wish.path)
    narrowed = _narrowed(deployment, platforms)
    calibration = calibrate(narrowed, model, wish.engine.memory(narrowed, model))
    answer = calibration.profile
    if isinstance(answer, int):
        reason = "; ".join([f"engine {deployment.engine} says so", *calibration.notes])
        return structs.replace(deployment, memory_bytes_per_device=answer, memory_reason=reason)
    if answer is None or model is None:
        reason = unreadable or f"engine {deployment.engine} cannot tell"
        return structs.replace(deployment, memory_reason=f"unknown: {reason}")
    needs = _estimated(wish, model, answer)
    shape = needs.shapes[0]
    reason = f"estimated from {_ORIGINS[model.origin]} for engine {deployment.engine}"
    return structs.replace(
        deployment,
        memory=needs,
        memory_reason="; ".join([reason, *calibration.notes]),
        tensor_parallel_size=shape.tensor_parallel_size,
        pipeline_parallel_size=shape.pipeline_parallel_size,
    )


_ORIGINS = {
    "safetensors": "the safetensors headers",
    "gguf": "the GGUF header",
    "config": "config.json alone",
}


def _described(path: Path | None) -> tuple[ModelDescription | None, str | None]:
    if path is None:
        return None, None
    try:
        return describe_model(path), None
    except ModelError as error:
        return None, str(error)


def _estimated(wish: Wish, model: ModelDescription, profile: MemoryProfile) -> MemoryNeeds:
    tensor, pipeline = wish.tensor_parallel_size, wish.pipeline_parallel_size
    for field, shape in (
        ("tensor_parallel_size", Shape(tensor or 1, 1)),
        ("pipeline_parallel_size", Shape(tensor or 1, pipeline or 1)),
    ):
        why_not = refusal(model.architecture, profile, shape)
        if why_not is not None:
            raise Impossible(Complaint(field, why_not))
    deployment, offered = wish.deployment, profile.kv_cache.dtypes
    if deployment.kv_cache_dtype not in offered:
        message = f"{deployment.kv_cache_dtype}: engine {deployment.engine} offers "
        raise Impossible(Complaint("kv_cache_dtype", message + ", ".join(offered)))
    return memory_needs(
        model,
        profile,
        EstimateRequest(
            dtype=deployment.dtype,
            kv_cache_dtype=deployment.kv_cache_dtype,
            context_tokens=deployment.max_model_len,
            concurrency=deployment.concurrency,
            tensor_parallel_sizes=None if tensor is None else (tensor,),
            pipeline_parallel_sizes=None if pipeline is None else (pipeline,),
        ),
    )


def _narrowed(deployment: Deployment, platforms: Collection[Platform] | None) -> Deployment:
    """The draft as it would run here: the need for memory differs between platforms."""
    wanted = deployment.affinity.platform
    there = [
        one
        for one in deployment.platforms
        if (one == wanted if wanted else platforms is None or one in platforms)
    ]
    return structs.replace(deployment, platforms=tuple(there[:1]) or deployment.platforms)
