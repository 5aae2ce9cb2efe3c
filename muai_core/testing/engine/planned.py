"""A deployment and its placement as the planner would give them to an engine."""

from pathlib import Path

from msgspec import structs

from muai_core.model.architecture import ModelError
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.memory import even_partition
from muai_core.model.placement import Placement
from muai_core.model_files import describe_model
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.plugin.engine import Engine
from muai_core.plugin.memory import MemoryProfile


def with_memory(engine: Engine, deployment: Deployment) -> Deployment:
    """The deployment with what its ranks need in every shape, where engine and files tell."""
    try:
        model = describe_model(Path(deployment.source).expanduser())
        profile = engine.memory(deployment, model)
        if not isinstance(profile, MemoryProfile):
            return deployment
        wish = EstimateRequest(
            dtype=deployment.dtype,
            kv_cache_dtype=deployment.kv_cache_dtype,
            context_tokens=deployment.max_model_len,
            concurrency=deployment.concurrency,
        )
        return structs.replace(deployment, memory=memory_needs(model, profile, wish))
    except (ModelError, OSError, ValueError):
        return deployment  # E04 tells whether the engine can serve it all the same


def placement_of(devices: tuple[Device, ...], deployment: Deployment) -> Placement:
    """The devices as ranks of the deployment's shape, in order, with its layers cut evenly."""
    shards, stages = deployment.tensor_parallel_size, deployment.pipeline_parallel_size
    uuids = tuple(device.uuid for device in devices)
    layers: tuple[int, ...] = ()
    if deployment.memory is not None:
        layers = even_partition(deployment.memory.at(shards).layer_count, stages)
    return Placement(
        tuple(uuids[start : start + shards] for start in range(0, len(uuids), shards)),
        reason="for a conformance test",
        layers=layers,
    )
