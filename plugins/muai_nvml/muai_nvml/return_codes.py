"""NVML's return codes, and what each says about a GPU or the host, as data.

Numbers, names: nvml.h, `nvmlReturn_t`. What they mean for a serving GPU: the same header's
comments; https://github.com/NVIDIA/nvidia-container-toolkit/issues/48 for UNKNOWN.
"""

from msgspec import Struct

from muai_core.model.device import HostFault
from muai_core.model.health import Clears, Finding, Health, Recovery
from muai_nvml.wire import Failure

UNINITIALIZED = 1
NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
OPERATING_SYSTEM = 17
LIB_RM_VERSION_MISMATCH = 18
UNKNOWN = 999

NAMES = {
    1: "UNINITIALIZED",
    2: "INVALID_ARGUMENT",
    3: "NOT_SUPPORTED",
    4: "NO_PERMISSION",
    5: "ALREADY_INITIALIZED",
    6: "NOT_FOUND",
    7: "INSUFFICIENT_SIZE",
    8: "INSUFFICIENT_POWER",
    9: "DRIVER_NOT_LOADED",
    10: "TIMEOUT",
    11: "IRQ_ISSUE",
    12: "LIBRARY_NOT_FOUND",
    13: "FUNCTION_NOT_FOUND",
    14: "CORRUPTED_INFOROM",
    15: "GPU_IS_LOST",
    16: "RESET_REQUIRED",
    17: "OPERATING_SYSTEM",
    18: "LIB_RM_VERSION_MISMATCH",
    19: "IN_USE",
    20: "MEMORY",
    21: "NO_DATA",
    22: "VGPU_ECC_NOT_SUPPORTED",
    23: "INSUFFICIENT_RESOURCES",
    24: "FREQ_NOT_SUPPORTED",
    25: "ARGUMENT_VERSION_MISMATCH",
    26: "DEPRECATED",
    27: "NOT_READY",
    28: "GPU_NOT_FOUND",
    29: "INVALID_STATE",
    30: "RESET_TYPE_NOT_SUPPORTED",
    999: "UNKNOWN",
}

#: The device does not have the value, or this driver cannot tell it: absent, whatever the call.
ABSENT = frozenset({3, 13, 25, 26})


class Verdict(Struct, frozen=True, kw_only=True):
    """What a return code says about the GPU whose call returned it."""

    kind: str
    severity: Health
    recovery: Recovery | None = None
    reason: str
    advice: str
    clears: Clears


def _broken(kind: str, recovery: Recovery, reason: str, advice: str) -> Verdict:
    return Verdict(
        kind=kind,
        severity=Health.FAILED,
        recovery=recovery,
        reason=reason,
        advice=advice,
        clears="checked",
    )


#: The GPU itself is at fault, whichever call it answered with this.
BROKEN = {
    8: _broken(
        "insufficient_power",
        "service",
        "its external power is not connected properly",
        "check the GPU's power cables",
    ),
    11: _broken(
        "irq_issue",
        "reboot",
        "the driver gets no interrupts from it",
        "reboot the node; if it comes back, check the slot and the firmware settings",
    ),
    14: _broken(
        "corrupted_inforom",
        "service",
        "its InfoROM is corrupted",
        "reset the GPU; if it comes back, have it replaced",
    ),
    15: _broken(
        "gpu_lost",
        "reboot",
        "it fell off the bus or cannot be reached any more",
        "reboot the node; if it comes back, have the GPU and its slot checked",
    ),
    16: _broken(
        "reset_required",
        "reset",
        "it must be reset before it can be used again",
        "end its processes and reset it: nvidia-smi --gpu-reset -i <GPU>",
    ),
}


def _unclear(kind: str, reason: str, advice: str) -> Verdict:
    # Not at once: one that answers now and then is not fit every other time.
    return Verdict(kind=kind, severity=Health.UNKNOWN, reason=reason, advice=advice, clears="clean")


#: Nothing can be said about a GPU for which a call that all depends on answers with this.
UNCLEAR = {
    4: _unclear(
        "inaccessible",
        "this process may not access it",
        "check the permissions of /dev/nvidia* and the container's device list",
    ),
    17: _unclear(
        "inaccessible",
        "the operating system blocks access to it",
        "check the container's device list and cgroup",
    ),
    999: _unclear(
        "inaccessible",
        "the driver gives no reason why it does not answer",
        "look into the kernel log (dmesg) and at nvidia-smi",
    ),
}
_UNCLEAR_OTHERWISE = _unclear(
    "nvml_error", "the driver does not tell its state", "look into the kernel log and at nvidia-smi"
)

#: Codes that speak of the host or the driver once every GPU answers with one of them.
HOST_WIDE = frozenset({1, 4, 9, 12, 17, 18, 999})
#: Of these, those that a fresh start of NVML in a new process may cure.
CURED_BY_RESTART = frozenset({1, 9, 12, 18})

_CONTAINER_ADVICE = (
    "run nvidia-smi on the host; if it works there and this is a container, `systemctl "
    "daemon-reload` may have taken its /dev/nvidia* away: restart the container"
)
HOST_FAULTS = {
    1: ("driver_restarted", "NVML lost its connection to the driver", "look at nvidia-smi"),
    4: ("no_permission", "this user may not access the NVIDIA devices", _CONTAINER_ADVICE),
    9: (
        "driver_not_loaded",
        "the NVIDIA kernel driver is not loaded",
        "load it (modprobe nvidia) or reboot the node; look into the kernel log",
    ),
    12: ("library_missing", "libnvidia-ml.so.1 is gone", "install the NVIDIA driver again"),
    17: ("blocked_by_os", "the operating system blocks access", _CONTAINER_ADVICE),
    18: (
        "version_mismatch",
        "the NVIDIA kernel driver and libnvidia-ml.so.1 have different versions",
        "the driver was upgraded while it was loaded: reboot the node or reload the driver",
    ),
    999: ("unknown_error", "NVML fails for no known reason", _CONTAINER_ADVICE),
}


def name_of(code: int) -> str:
    """E.g. `GPU_IS_LOST (15)`."""
    return f"{NAMES.get(code, 'return code')} ({code})"


def finding_of(failure: Failure) -> Finding:
    """What a failed call says about the one GPU that it was about."""
    verdict = BROKEN.get(failure.code) or UNCLEAR.get(failure.code) or _UNCLEAR_OTHERWISE
    return Finding(
        kind=verdict.kind,
        code=failure.code,
        severity=verdict.severity,
        recovery=verdict.recovery,
        reason=f"{verdict.reason}: {failure.call} answered {name_of(failure.code)}",
        advice=verdict.advice,
        clears=verdict.clears,
    )


def host_fault_of(code: int, evidence: str) -> HostFault:
    """A return code that NVML gives for everything at once. `evidence`: who said so, in words."""
    kind, reason, advice = HOST_FAULTS.get(
        code, ("nvml_failed", "NVML does not work", "look at nvidia-smi and the kernel log")
    )
    return HostFault(kind=kind, reason=f"{reason}: {evidence}", advice=advice)
