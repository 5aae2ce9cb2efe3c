"""A fake engine: light processes that keep the whole contract, but for one defect."""

import contextlib
import json
import os
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.plugin.capability import CAPABILITIES
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Engine, LaunchRequest, LaunchSpec, Suitability
from muai_core.plugin.failure import ExitEvidence, Failure
from muai_core.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from pydantic import BaseModel

GIB = 1024**3
HELD_BYTES = 10 * GIB
MAX_MODEL_LEN = 4096
RANK_TITLE = "muai-fake-rank"
_WEIGHTS = b"w" * 4096
#: What the process says, and what it means.
_LAST_WORDS = (
    ("incomplete metadata, file not fully covered", "model_files", "the weights are cut off"),
    ("Address already in use", "port_taken", "its port is in use"),
)


@hookimpl
def muai_engines() -> Sequence[Engine]:
    return [FakeEngine()]


def make_model(folder: Path) -> str:
    """A model for the fake engine; returns its source."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(_WEIGHTS)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "fake", "weights_bytes": len(_WEIGHTS)}), encoding="utf-8"
    )
    return str(folder)


def fake_deployment(source: str) -> Deployment:
    return Deployment(
        name="fake-model",
        source=source,
        engine=FakeEngine.name,
        platforms=FakeEngine.platforms,
        max_model_len=MAX_MODEL_LEN,
    )


class FakeEngine(Engine):
    """Serves words of its own making. `defect` is one of `ENGINE_DEFECTS`, or none."""

    name = "fake"
    platforms = ("cuda",)
    capabilities = CAPABILITIES

    def __init__(self, defect: str = "", folder: Path | None = None) -> None:
        """`folder` holds what the devices are said to hold, see `FakeDevices`."""
        self._defect = defect
        self._folder = folder
        if defect == "declares_nonsense":
            self.capabilities = (*CAPABILITIES, "telepathy")  # type: ignore[arg-type]

    def options_model(self) -> "type[BaseModel]":
        from pydantic import BaseModel, ConfigDict

        extra = "ignore" if self._defect == "accepts_any_option" else "forbid"

        class FakeOptions(BaseModel):
            model_config = ConfigDict(extra=extra)  # type: ignore[typeddict-item]

            load_s: float = 0.3

        return FakeOptions

    def suits(self, deployment: Deployment) -> Suitability:
        if self._defect == "suits_nothing":
            return Suitability(False, "it is not in the mood")
        path = Path(deployment.source) / "config.json"
        if self._defect == "raises_without_a_model":
            path.stat()
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            return Suitability(False, f"{path}: {type(error).__name__}")
        if found.get("model_type") != "fake":
            return Suitability(False, f"{path} is no fake model")
        return Suitability(True, "it is a fake model")

    def memory(self, deployment: Deployment, model: ModelDescription | None) -> int:
        return HELD_BYTES

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        deployment = request.deployment
        spec = {
            "host": request.host,
            "port": request.port,
            "name": deployment.name,
            "source": deployment.source,
            "defect": self._defect,
            "shape": [deployment.tensor_parallel_size, deployment.pipeline_parallel_size],
            "load_s": deployment.engine_options.get("load_s", 0.3),
            "max_model_len": deployment.max_model_len or MAX_MODEL_LEN,
            "devices": [device.uuid for device in request.devices],
            "folder": str(self._folder) if self._folder is not None else None,
        }
        argv = [request.python, "-P", "-m", "muai_core.testing.fakes.server", json.dumps(spec)]
        if self._defect == "launches_at_random":
            argv.append(secrets.token_hex(8))
        if self._defect == "tells_secrets":
            argv.append(os.environ.get("HF_TOKEN", "no token"))
        if self._defect == "uses_a_shell":
            argv = ["/bin/sh", "-c", f"exec {shlex.join(argv)}"]
        launch = LaunchSpec(
            argv=tuple(argv),
            host=request.host,
            port=request.port,
            served_model_name=deployment.name,
            metrics_path="/metrics",
            rank_processes=RANK_TITLE,
        )
        if self._defect == "hides_its_ranks":
            return structs.replace(launch, rank_processes="no-process-is-called-so")
        if self._defect == "sees_all_devices":
            return structs.replace(launch, env={"CUDA_VISIBLE_DEVICES": ",".join(FAKE_UUIDS)})
        return launch

    def classify(self, evidence: ExitEvidence) -> Failure | None:
        for words, kind, reason in _LAST_WORDS:
            if words in evidence.log_tail:
                return Failure(kind=kind, reason=reason)  # type: ignore[arg-type]
        return None


FAKE_UUIDS = tuple(f"GPU-fake-{number}" for number in range(4))


class FakeDevices(DeviceSource):
    """Four GPUs whose memory is what the files of one folder say, one file for each holder.

    A file is named for its process and counts while that lives; any other name counts for good.
    """

    name = "fake"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def observe(self, now_s: float) -> Inventory:
        held = dict.fromkeys(FAKE_UUIDS, 0)
        for path in sorted(self._folder.iterdir()):
            if path.name.isdigit() and not Path(f"/proc/{path.name}").exists():
                continue
            for uuid, memory_bytes in _content(path).items():
                held[uuid] += memory_bytes
        return Inventory(
            source=self.name,
            observed_at_s=now_s,
            devices=tuple(_device(number, uuid) for number, uuid in enumerate(FAKE_UUIDS)),
            readings=tuple(
                DeviceReading(uuid=uuid, memory_used_bytes=used) for uuid, used in held.items()
            ),
        )

    def devices(self) -> tuple[Device, ...]:
        return self.observe(time.monotonic()).devices


def _content(path: Path) -> Mapping[str, int]:
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # it is being written, or was removed
        found = json.loads(path.read_bytes())
    return found


def _device(number: int, uuid: str) -> Device:
    return Device(
        uuid=uuid,
        node="fake",
        index=number,
        kind="gpu",
        platform="cuda",
        name="Fake GPU",
        memory_total_bytes=80 * GIB,
    )
