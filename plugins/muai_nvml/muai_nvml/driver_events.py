"""XIDs, ECC errors and the like as the driver tells them, in a thread of their own."""

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from muai_nvml.describe import Gpu
from muai_nvml.nvml import Nvml, NvmlFailure, Visit
from muai_nvml.return_codes import ABSENT, BROKEN, TIMEOUT
from muai_nvml.wire import HOST, EventsBroken, Occurred, Report

# nvml.h, nvmlEventType*.
DOUBLE_BIT_ECC = 0x2
XID = 0x8
SINGLE_BIT_ECC_STORM = 0x200
DRAM_RETIREMENT = 0x400
DRAM_RETIREMENT_FAILURE = 0x800
NON_FATAL_POISON = 0x1000
FATAL_POISON = 0x2000
GPU_UNAVAILABLE = 0x4000
GPU_RECOVERY_ACTION = 0x8000
_WANTED = (
    DOUBLE_BIT_ECC
    | XID
    | SINGLE_BIT_ECC_STORM
    | DRAM_RETIREMENT
    | DRAM_RETIREMENT_FAILURE
    | NON_FATAL_POISON
    | FATAL_POISON
    | GPU_UNAVAILABLE
    | GPU_RECOVERY_ACTION
)
_XID_RECOVERY_ACTION_CHANGED = 154
#: How long one wait lasts: no longer than a closed event set may go unnoticed.
_WAIT_MS = 1000
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
#: `gpuInstanceId` of an event that is about no MIG instance.
_NO_INSTANCE = 0xFFFFFFFF


def changes_recovery_action(event: Occurred) -> bool:
    """Whether what the driver asks for to recover the GPU has to be read again."""
    if event.event_type == XID:
        return event.data == _XID_RECOVERY_ACTION_CHANGED
    return event.event_type == GPU_RECOVERY_ACTION


class DriverEvents:
    """One event set for all GPUs of the probe, made anew when waiting for it fails.

    GPUs are registered in their visits, where it is noticed when a call hangs.
    """

    def __init__(self, nvml: Nvml, tell: Callable[[Report], None]) -> None:
        self._nvml = nvml
        self._tell = tell
        self._set: Any = None
        self._registered: set[int] = set()
        #: GPUs whose events cannot be had, of which that was said; HOST for all at once.
        self._deaf: set[int] = set()
        #: A lost GPU does not tell its UUID any more, but its handle is still the same.
        self._by_handle: dict[int | None, int] = {}
        self._known = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="events", daemon=True).start()

    def register(self, visit: Visit, gpu: Gpu) -> None:
        """Once per GPU and event set. Raises NvmlFailure when the GPU is broken."""
        if gpu.index in self._registered:
            return
        for handle in (gpu.handle, *gpu.handles):
            self._by_handle[_address(handle)] = gpu.index
        supported = visit.get("nvmlDeviceGetSupportedEventTypes", gpu.handle)
        if not supported:
            return
        event_set = self._set
        if event_set is None:
            event_set = self._set = self._created(visit)
        if event_set is None:
            return
        try:
            visit.need("nvmlDeviceRegisterEvents", gpu.handle, supported & _WANTED, event_set)
        except NvmlFailure as failure:
            if failure.code in BROKEN:
                raise
            self._refused(gpu.index, f"those of GPU {gpu.index}", failure)
            return
        if event_set is self._set:
            self._registered.add(gpu.index)
            self._deaf.discard(gpu.index)
            self._known.set()

    def _created(self, visit: Visit) -> Any:
        """None: there is none for now. That is no fault of the GPU that is being visited."""
        try:
            return visit.need("nvmlEventSetCreate")
        except NvmlFailure as failure:
            self._refused(HOST, "those of any GPU", failure)
            return None

    def _refused(self, index: int, whose: str, failure: NvmlFailure) -> None:
        """It is tried again in the next visit; said once, and never of what is not supported."""
        if failure.code not in ABSENT and index not in self._deaf:
            self._deaf.add(index)
            self._tell(EventsBroken(f"{whose} cannot be had: {failure}"))

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        broken = False
        while True:
            self._known.wait()
            try:
                event = self._nvml.call("nvmlEventSetWait", self._set, _WAIT_MS)
            except NvmlFailure as failure:
                if failure.code != TIMEOUT:
                    # Before the report, upon which the GPUs are registered again.
                    self._renew()
                    if not broken:
                        broken = True
                        self._tell(EventsBroken(str(failure)))
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    continue
                event = None
            broken = False
            pause_s = _FIRST_PAUSE_S
            if event is not None:
                self._tell(self._occurred(event))

    def _occurred(self, event: Any) -> Occurred:
        instance = int(event.gpuInstanceId)
        return Occurred(
            at_s=time.monotonic(),
            index=self._by_handle.get(_address(event.device)),
            gpu_instance=None if instance == _NO_INSTANCE else instance,
            event_type=int(event.eventType),
            data=int(event.eventData),
        )

    def _renew(self) -> None:
        old = self._set
        self._known.clear()
        self._set = None
        self._registered.clear()
        try:
            self._nvml.call("nvmlEventSetFree", old)
        except NvmlFailure as failure:
            self._tell(EventsBroken(f"the event set cannot be freed: {failure}"))


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
