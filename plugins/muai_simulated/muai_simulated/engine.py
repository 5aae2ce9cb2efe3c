"""The engine `simulated`: a real process with a real server and no model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.plugin.engine import Complaint, Engine, LaunchRequest, LaunchSpec, Suitability
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

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or holdings.default_directory()

    def options_model(self) -> "type[BaseModel]":
        from muai_simulated.config import EngineOptions

        return EngineOptions

    def suits(self, deployment: Deployment) -> Suitability:
        if deployment.source.startswith(SOURCE_PREFIX):
            return Suitability(True, f"the source starts with {SOURCE_PREFIX}")
        # `auto` must never answer for a real model with made-up words.
        return Suitability(
            False, f"simulates only sources that start with {SOURCE_PREFIX}, unless it is named"
        )

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

    def memory(self, deployment: Deployment, model: ModelDescription | None) -> int | None:
        return _memory_bytes(deployment)

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
            memory_bytes={
                device.uuid: self._held_bytes(deployment, device) for device in request.devices
            },
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

    def _held_bytes(self, deployment: Deployment, device: Device) -> int:
        held = _memory_bytes(deployment)
        if held is None:
            held = deployment.memory_bytes_per_device
        if held is None:
            held = int(device.memory_total_bytes * _UNCLAIMED_SHARE)
        return held


def _memory_bytes(deployment: Deployment) -> int | None:
    memory_gib = _options(deployment).memory_gib
    return None if memory_gib is None else int(memory_gib * 2**30)


def _options(deployment: Deployment) -> "EngineOptions":
    from muai_simulated.config import EngineOptions

    return EngineOptions.model_validate(deployment.engine_options)
