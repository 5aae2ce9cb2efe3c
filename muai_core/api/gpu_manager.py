"""The GPUs of this machine, as one object for one process."""

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from muai_core.api.active_check import checked_actively
from muai_core.api.allocation import AllocationError, Claims, GPUAllocation
from muai_core.api.gpu import GPUInfo, HealthReport, UnknownGPU, gpu_info
from muai_core.control.actions import CheckDevice
from muai_core.control.events import DeviceChecked, DeviceFaulted, DeviceReinstated, Event
from muai_core.control.self_tests import free_for_test_bytes
from muai_core.control.state import ControlSettings, DeviceRecord, State
from muai_core.model.placement import Unplaceable
from muai_core.plugin.device_source import DeviceSource, SelfTestResult
from muai_core.runtime.device_views import refusal_words
from muai_core.runtime.observation import DeviceWatch, Sources

#: Longer than any program lives.
_NEVER_S = 10 * 365 * 86400.0

_log = logging.getLogger(__name__)

ConfigPath = str | os.PathLike[str]


class GPUManager:
    """Sees the GPUs, shares them out, tells how they are.

    Every question looks at the GPUs anew, which takes some milliseconds, and ten seconds at most
    when a driver hangs. What was found on a GPU is remembered as long as the manager lives: one
    that failed stays failed. Safe to use from several threads.
    """

    def __init__(
        self,
        config: ConfigPath | None = None,
        sources: Iterable[DeviceSource] | Sources | None = None,
    ) -> None:
        """Look through the device sources of a config file, through the given ones (a mapping gives
        each its options), or else through all installed ones that are on by default.

        Raises ConfigError for a wrong config, ValueError for both arguments at once.
        """
        if config is not None and sources is not None:
            raise ValueError("config and sources exclude each other: give one of them, or none")
        chosen, settings = _chosen(config, sources)
        self._sources = {source.name: source for source in chosen}
        self._watch = DeviceWatch(chosen, settings, _log_words)
        #: The self-tests that the watch's plane waits for, by UUID.
        self._wanted: dict[str, CheckDevice] = {}
        self._lock = threading.RLock()
        self._ids: dict[str, int] = {}
        self._claims = Claims()
        self._closing = weakref.finalize(self, self._watch.close)

    @property
    def closed(self) -> bool:
        return not self._closing.alive

    def close(self) -> None:
        """Close the device sources. May be repeated; happens by itself at exit."""
        with self._lock:
            self._closing()

    def __enter__(self) -> "GPUManager":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def detect_gpus(self) -> list[GPUInfo]:
        """All GPUs that are there, in the order of their ids; none is an empty list."""
        with self._lock:
            state = self._look()
            return [info for info, record in self._gpus(state) if record.present]

    def get_metrics(self) -> dict[int, dict[str, Any]]:
        """Device id → what dashboards show: `device_id`, `memory_used_mb`, `memory_available_mb`,
        `utilization_percent`, `temperature_celsius`, `is_healthy`, `health`.

        A GPU that vanished or fell silent stays, with None for what it no longer tells.
        """
        with self._lock:
            infos = [info for info, _ in self._gpus(self._look())]
        return {info.device_id: _metrics(info) for info in infos}

    def check_health(self, device_id: int, active: bool = False) -> HealthReport:
        """How one GPU is. Raises UnknownGPU.

        With `active` its source's self-test runs on it, a short-lived process, if it has room for
        one. That may take half a minute, and what it finds counts like everything else.
        """
        self_test = self._test(device_id) if active else None
        with self._lock:
            info, record = self._gpu(self._look(), device_id)
        return HealthReport(
            device_id=device_id,
            healthy=info.is_healthy,
            health=info.health,
            reason=info.health_reason,
            advice=info.advice,
            findings=tuple(one.finding for one in record.condition.open),
            self_test=self_test,
        )

    def reinstate(self, device_id: int) -> None:
        """Forget all that was found on a GPU so far, after a reset or a repair.

        What the next look finds counts anew. Raises UnknownGPU.
        """
        with self._lock:
            _, record = self._gpu(self._look(), device_id)
            self._tell(DeviceReinstated(uuid=record.device.uuid))

    def allocate_gpus(
        self,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        memory_bytes_per_gpu: int | None = None,
    ) -> GPUAllocation:
        """Claim tensor_parallel × pipeline_parallel GPUs of one node, the least used ones.

        The ranks of a stage get GPUs of one island where possible. Without
        `memory_bytes_per_gpu` whole GPUs are claimed. Only healthy GPUs are taken, and degraded
        ones if these do not suffice. Raises AllocationError when it is impossible, ValueError for
        numbers below 1.
        """
        for name, number in (
            ("tensor_parallel", tensor_parallel),
            ("pipeline_parallel", pipeline_parallel),
            ("memory_bytes_per_gpu", memory_bytes_per_gpu),
        ):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; it must be 1 or more")
        with self._lock:
            state = self._look()
            gpus = self._gpus(state)
            if not gpus:
                raise AllocationError(self._no_gpu(), {})
            found = self._claims.claim(
                state, tensor_parallel, pipeline_parallel, memory_bytes_per_gpu
            )
            if isinstance(found, Unplaceable):
                raise self._impossible(found, tensor_parallel, pipeline_parallel)
            name, placement = found
            return GPUAllocation(
                name,
                [[self._ids[uuid] for uuid in stage] for stage in placement.stages],
                placement.devices,
                placement.claims,
                placement.reason,
                self.release,
            )

    def release(self, allocation: GPUAllocation) -> None:
        """Give the GPUs back. Raises ValueError when that was done before."""
        with self._lock:
            self._claims.release(allocation.name)

    def _look(self) -> State:
        if self.closed:
            raise RuntimeError("this GPUManager is closed; make another, or get_gpu_manager()")
        self._watch.look()
        self._follow()
        state = self._watch.state
        for record in sorted(state.devices.values(), key=_order):
            if record.device.kind == "gpu":
                self._ids.setdefault(record.device.uuid, self._free_id(record))
        return state

    def _tell(self, event: Event) -> None:
        self._watch.tell([event])
        self._follow()

    def _follow(self) -> None:
        for action in self._watch.actions:
            if isinstance(action, CheckDevice):
                self._wanted[action.device.uuid] = action

    def _test(self, device_id: int) -> str:
        """Test a GPU, let it count, and say in words what came out."""
        with self._lock:
            state = self._look()
            _, record = self._gpu(state, device_id)
            claimed_bytes = self._claims.claimed_bytes(record.device.uuid)
            free_bytes = max(0, free_for_test_bytes(state, record) - claimed_bytes)
            wanted = self._wanted.pop(record.device.uuid, None)
        # Others may ask meanwhile: this takes a while.
        result = checked_actively(self._sources[record.source], record.device, free_bytes)
        with self._lock:
            self._conclude(record, wanted, result)
        if result.finding is not None:
            return f"failed: {result.finding.reason}"
        if result.inconclusive is not None:
            return f"proved nothing: {result.inconclusive}"
        return f"passed: {result.detail}" if result.detail else "passed"

    def _conclude(
        self, record: DeviceRecord, wanted: CheckDevice | None, result: SelfTestResult
    ) -> None:
        uuid = record.device.uuid
        if wanted is not None:
            self._tell(
                DeviceChecked(
                    uuid=uuid,
                    check=wanted.check,
                    finding=result.finding,
                    inconclusive=result.inconclusive,
                    detail=result.detail,
                )
            )
        elif result.finding is not None:
            # Nobody waited for it: it counts as something that happened.
            now_s = time.monotonic()
            self._tell(
                DeviceFaulted(
                    source=record.source, uuid=uuid, observed_at_s=now_s, finding=result.finding
                )
            )

    def _free_id(self, record: DeviceRecord) -> int:
        taken = set(self._ids.values())
        index = record.device.index
        if index not in taken and record.device.mig_index is None:
            return index
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def _gpus(self, state: State) -> list[tuple[GPUInfo, DeviceRecord]]:
        # Those that are absent for long are forgotten one day.
        known = [(device_id, state.devices.get(uuid)) for uuid, device_id in self._ids.items()]
        there = [(device_id, record) for device_id, record in known if record is not None]
        there.sort(key=lambda pair: pair[0])
        return [(gpu_info(device_id, record, state), record) for device_id, record in there]

    def _gpu(self, state: State, device_id: int) -> tuple[GPUInfo, DeviceRecord]:
        gpus = self._gpus(state)
        for info, record in gpus:
            if info.device_id == device_id:
                return info, record
        if not gpus:
            raise UnknownGPU(self._no_gpu())
        there = ", ".join(str(info.device_id) for info, _ in gpus)
        raise UnknownGPU(f"there is no GPU {device_id!r}; there are: {there}")

    def _no_gpu(self) -> str:
        state = self._watch.state
        failures = [
            f"device source {name}: {source.failure}"
            for name, source in state.sources.items()
            if source.failure is not None
        ]
        absences = self._watch.observer.absences()
        return "; ".join(["no GPU was found", *failures, *state.rejected, *absences])

    def _impossible(
        self, found: Unplaceable, tensor_parallel: int, pipeline_parallel: int
    ) -> AllocationError:
        reasons = {
            self._ids[refusal.device]: refusal_words(self._watch.state, refusal)
            for refusal in found.refusals
            if refusal.device in self._ids
        }
        shape = f"tensor_parallel={tensor_parallel}, pipeline_parallel={pipeline_parallel}"
        return AllocationError(f"{shape}: {found.summary}", dict(sorted(reasons.items())))


def _chosen(
    config: ConfigPath | None, sources: Iterable[DeviceSource] | Sources | None
) -> tuple[Sources, ControlSettings]:
    if sources is not None:
        given = sources if isinstance(sources, Mapping) else {source: {} for source in sources}
        return given, _patient(ControlSettings())
    from muai_core import builtin
    from muai_core.runtime.cpu_source import CpuSource

    if config is None:
        installed = builtin.load().device_sources.values()
        # The host's CPU is no GPU, and reading it costs as much as eight GPUs do.
        by_default: Sources = {
            source: {}
            for source in installed
            if source.on_by_default and not isinstance(source, CpuSource)
        }
        return by_default, _patient(ControlSettings())
    from muai_core.config import load_config
    from muai_core.runtime.assembly import device_sources
    from muai_core.runtime.resolution import control_settings

    loaded = load_config(os.fspath(config), load_plugins=builtin.load)
    return device_sources(loaded), _patient(control_settings(loaded))


def _patient(settings: ControlSettings) -> ControlSettings:
    """The same, for a plane that waits until somebody wants a self-test."""
    health = structs.replace(
        settings.health, self_test="suspect", self_test_deadline_s=_NEVER_S, self_test_retry_s=0.0
    )
    return structs.replace(settings, health=health)


def _log_words(severity: str, words: str) -> None:
    _log.log(logging.WARNING if severity == "bad" else logging.INFO, "%s", words)


def _metrics(info: GPUInfo) -> dict[str, Any]:
    return {
        "device_id": info.device_id,
        "memory_used_mb": info.memory_used_mb,
        "memory_available_mb": info.memory_available_mb,
        "utilization_percent": info.utilization_percent,
        "temperature_celsius": info.temperature_celsius,
        "is_healthy": info.is_healthy,
        "health": info.health.value,
    }


def _order(record: DeviceRecord) -> tuple[str, int, int, str]:
    device = record.device
    return device.node, device.index, device.mig_index or 0, device.uuid


_lock = threading.Lock()
_manager: GPUManager | None = None
_config: Path | None = None


def get_gpu_manager(config: ConfigPath | None = None) -> GPUManager:
    """The one manager of this process, made at the first call; made anew once it is closed.

    `config` counts when the manager is made. Raises what GPUManager raises, and ValueError when
    the manager that exists was made with another config.
    """
    global _manager, _config
    wanted = None if config is None else Path(config).absolute()
    with _lock:
        if _manager is None or _manager.closed:
            _manager, _config = GPUManager(config), wanted
        elif wanted is not None and wanted != _config:
            made = "without a config" if _config is None else f"with {_config}"
            raise ValueError(
                f"this process has a GPUManager already, made {made}; close() it to have one "
                f"with {wanted}, or make a GPUManager of your own"
            )
        return _manager


def _forget_after_fork() -> None:
    """A child has no threads of its parent's manager: it makes one of its own."""
    global _manager, _lock
    _manager, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
