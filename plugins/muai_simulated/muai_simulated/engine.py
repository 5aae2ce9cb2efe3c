"""The engine `simulated`: a real process with a real server and no model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from muai_core.engine_server.memory_line import MEMORY_LINE_PATTERNS, memory_line
from muai_core.model.architecture import ModelDescription, ModelError
from muai_core.model.deployment import Deployment
from muai_core.plugin.engine import Complaint, Engine, LaunchRequest, LaunchSpec, Suitability
from muai_core.plugin.memory import MemoryProfile
from muai_simulated import holdings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_simulated.config import EngineOptions

SOURCE_PREFIX = "simulated:"
DEFAULT_MAX_MODEL_LEN = 8192
#: What an engine takes of a device when nobody says how much.
_UNCLAIMED_SHARE = 0.9


class SimulatedEngine(Engine):
    """Serves deterministic text at a set speed, and fails in the ways it is told to."""

    name = "simulated"
    platforms = ("simulated", "cpu")
    auto_priority = -100
    capabilities = (
        "tensor_parallel",
        "pipeline_parallel",
        "streaming",
        "abort",
        "stop_strings",
        "seed",
        "logprobs",
        "token_ids",
        "continue_final_message",
    )

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or holdings.default_directory()

    def options_model(self) -> "type[BaseModel]":
        from muai_simulated.config import EngineOptions

        return EngineOptions

    def suits(self, deployment: Deployment) -> Suitability:
        if deployment.source.startswith(SOURCE_PREFIX):
            return Suitability(True, f"the source starts with {SOURCE_PREFIX}")
        from muai_core import describe_model

        try:
            describe_model(Path(deployment.source))
        except ModelError as error:
            return Suitability(False, f"{error}; or a source that starts with {SOURCE_PREFIX}")
        # `auto` must never answer for a real model with made-up words.
        return Suitability(True, "pretends to be vLLM with this model", only_if_named=True)

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        heads = _options(deployment).attention_heads
        size = deployment.tensor_parallel_size
        if heads is None or heads % size == 0:
            return ()
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        message = (
            f"{size} is not possible: the model has {heads} attention heads; "
            f"sizes that divide them: {divisors}"
        )
        return (Complaint("tensor_parallel_size", message),)

    def memory(
        self, deployment: Deployment, model: ModelDescription | None
    ) -> MemoryProfile | int | None:
        memory_bytes = _memory_bytes(deployment)
        if memory_bytes is not None or model is None:
            return memory_bytes
        return _profile()

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        import msgspec

        from muai_simulated.worker import WorkerSpec

        deployment = request.deployment
        spec = WorkerSpec(
            model_name=deployment.name,
            source=deployment.source,
            host=request.host,
            port=request.port,
            replica_id=request.replica_id,
            epoch=request.epoch,
            max_model_len=deployment.max_model_len or DEFAULT_MAX_MODEL_LEN,
            memory_bytes=_held_bytes(request),
            memory_line=_memory_line(request),
            memory_total_bytes={
                device.uuid: device.memory_total_bytes for device in request.devices
            },
            options=deployment.engine_options,
            owner_pid=os.getpid(),
            holdings_directory=str(self._directory),
        )
        # -P: a file in the working directory must not shadow a module of the engine.
        argv = (
            request.python,
            "-P",
            "-m",
            "muai_simulated.worker",
            msgspec.json.encode(spec).decode(),
        )
        return LaunchSpec(
            argv=argv, host=request.host, port=request.port, served_model_name=deployment.name
        )


def _held_bytes(request: LaunchRequest) -> dict[str, int]:
    """What the replica takes of each device, by UUID: as an option says, else as it is claimed."""
    extra = int(_options(request.deployment).extra_memory_gib * 2**30)
    return {uuid: planned + extra for uuid, planned in _planned_bytes(request).items()}


def _planned_bytes(request: LaunchRequest) -> dict[str, int]:
    fixed = _memory_bytes(request.deployment)
    if fixed is None:
        fixed = request.deployment.memory_bytes_per_device
    if fixed is not None:
        return {device.uuid: fixed for device in request.devices}
    if request.ranks:
        return {
            uuid: rank.total_bytes - rank.overhead_bytes + _overhead_bytes(request)
            for stage, rank in zip(request.stages, request.ranks, strict=True)
            for uuid in stage
        }
    return {
        device.uuid: int(device.memory_total_bytes * _UNCLAIMED_SHARE) for device in request.devices
    }


def _overhead_bytes(request: LaunchRequest) -> int:
    """What the profile says beside weights, cache and activations, before any correction by starts:
    what an engine holds does not depend on what it is expected to hold.
    """
    terms = _profile().overhead
    stages = request.stages
    return (
        terms.runtime_bytes
        + terms.graph_bytes
        + (len(stages[0]) > 1) * terms.tensor_communication_bytes
        + (len(stages) > 1) * terms.pipeline_communication_bytes
    )


def _profile() -> MemoryProfile:
    from muai_core import engine_profile

    profile = engine_profile("vllm", "cuda")
    assert profile is not None
    return structs.replace(profile, log_patterns=MEMORY_LINE_PATTERNS)


def _memory_line(request: LaunchRequest) -> str | None:
    """What the largest rank would tell at the end of loading; None: nothing is known by kind."""
    ranks = request.ranks
    if not ranks or _memory_bytes(request.deployment) is not None:
        return None
    return memory_line(
        {
            "weights": max(rank.weights_bytes for rank in ranks),
            "kv_cache": max(rank.kv_cache_bytes for rank in ranks),
            "activation": max(rank.activation_bytes for rank in ranks),
        }
    )


def _memory_bytes(deployment: Deployment) -> int | None:
    memory_gib = _options(deployment).memory_gib
    return None if memory_gib is None else int(memory_gib * 2**30)


def _options(deployment: Deployment) -> "EngineOptions":
    from muai_simulated.config import EngineOptions

    return EngineOptions.model_validate(deployment.engine_options)
