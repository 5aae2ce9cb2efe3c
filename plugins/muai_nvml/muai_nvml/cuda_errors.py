"""What each error of the CUDA driver says about the device when a program that is known to be
right gets it. The codes are those of cuda.h (`CUresult`, CUDA 13.0).

An error that the host, the driver or another program can cause proves nothing.
"""

from collections.abc import Mapping

from msgspec import Struct

from muai_core.model.health import Clears, Finding, Health, Recovery


class CudaVerdict(Struct, frozen=True):
    """The meaning of one code. Without a severity it says nothing about the device."""

    name: str
    words: str
    severity: Health | None = None
    recovery: Recovery | None = None
    clears: Clears = "checked"
    advice: str = ""


def _broken(name: str, words: str) -> CudaVerdict:
    return CudaVerdict(name, words, Health.FAILED, "reset", "repaired", "reset the GPU")


def _crashed(name: str, words: str) -> CudaVerdict:
    return CudaVerdict(name, words, Health.FAILED, "reset", "checked", "reset the GPU")


def _doubtful(name: str, words: str, advice: str) -> CudaVerdict:
    return CudaVerdict(name, words, Health.SUSPECT, None, "checked", advice)


DEVICE_UNAVAILABLE = 46
_REBOOT = "reset the GPU or reboot the node if it stays so"

VERDICTS: Mapping[int, CudaVerdict] = {
    # The device's own.
    214: _broken("ECC_UNCORRECTABLE", "a memory error that ECC cannot correct"),
    220: _broken("NVLINK_UNCORRECTABLE", "an NVLink error that cannot be corrected"),
    700: _crashed("ILLEGAL_ADDRESS", "it used an address that the program does not use"),
    714: _crashed("HARDWARE_STACK_ERROR", "its call stack was corrupt"),
    715: _crashed("ILLEGAL_INSTRUCTION", "it met an instruction that is none"),
    716: _crashed("MISALIGNED_ADDRESS", "it used an address that the program does not use"),
    717: _crashed("INVALID_ADDRESS_SPACE", "it used an address that the program does not use"),
    718: _crashed("INVALID_PC", "it ran off the program"),
    719: _crashed("LAUNCH_FAILED", "it failed while it ran the program"),
    # Likely the device's own.
    DEVICE_UNAVAILABLE: _doubtful(
        "DEVICE_UNAVAILABLE",
        "it is busy or unavailable",
        _REBOOT,
    ),
    100: _doubtful(
        "NO_DEVICE",
        "CUDA does not find it",
        "see whether /dev/nvidia* are there, a container can lose them; " + _REBOOT,
    ),
    101: _doubtful("INVALID_DEVICE", "CUDA does not know it", _REBOOT),
    226: _doubtful("CONTAINED", "an error that the GPU contained", _REBOOT),
    702: _doubtful("LAUNCH_TIMEOUT", "it took too long for a small program", _REBOOT),
    802: _doubtful(
        "SYSTEM_NOT_READY",
        "the system is not ready for CUDA",
        "see whether nvidia-fabricmanager runs on this node",
    ),
    999: _doubtful("UNKNOWN", "an unknown error inside the driver", _REBOOT),
    # The host's, the driver's, or somebody else's.
    2: CudaVerdict("OUT_OF_MEMORY", "the device has no memory left for a test"),
    34: CudaVerdict("STUB_LIBRARY", "libcuda.so.1 is the stub that programs are linked with"),
    36: CudaVerdict("CALL_REQUIRES_NEWER_DRIVER", "the driver is too old"),
    102: CudaVerdict("DEVICE_NOT_LICENSED", "the virtual GPU has no licence"),
    209: CudaVerdict("NO_BINARY_FOR_GPU", "the driver cannot compile for this GPU"),
    218: CudaVerdict("INVALID_PTX", "the driver cannot compile the test program"),
    221: CudaVerdict("JIT_COMPILER_NOT_FOUND", "the driver's compiler is not installed"),
    222: CudaVerdict("UNSUPPORTED_PTX_VERSION", "the driver is too old for the test program"),
    223: CudaVerdict("JIT_COMPILATION_DISABLED", "the driver's compiler is switched off"),
    304: CudaVerdict("OPERATING_SYSTEM", "a call to the operating system failed"),
    800: CudaVerdict("NOT_PERMITTED", "it is not permitted"),
    801: CudaVerdict("NOT_SUPPORTED", "it is not supported here"),
    803: CudaVerdict("SYSTEM_DRIVER_MISMATCH", "the driver and its libraries do not match"),
    804: CudaVerdict("COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility is not supported"),
    805: CudaVerdict("MPS_CONNECTION_FAILED", "the MPS server cannot be reached"),
    806: CudaVerdict("MPS_RPC_FAILURE", "the MPS server does not answer"),
    807: CudaVerdict("MPS_SERVER_NOT_READY", "the MPS server is not ready"),
    808: CudaVerdict("MPS_MAX_CLIENTS_REACHED", "the MPS server has too many clients"),
    809: CudaVerdict("MPS_MAX_CONNECTIONS_REACHED", "the MPS server has too many connections"),
    810: CudaVerdict("MPS_CLIENT_TERMINATED", "the MPS server ended the test"),
}


def finding_of(call: str, code: int, driver_words: str = "") -> Finding | str:
    """The finding that follows from an error, or in words why none does."""
    verdict = VERDICTS.get(code)
    if verdict is None:
        return f"{call} returned {driver_words or 'an error'} ({code}), which proves nothing"
    text = f"{call} returned CUDA_ERROR_{verdict.name} ({code}): {verdict.words}"
    if verdict.severity is None:
        return f"{text} ({driver_words})" if " " in driver_words else text
    return Finding(
        kind="self_test",
        code=code,
        severity=verdict.severity,
        recovery=verdict.recovery,
        reason=f"self-test: {text}",
        advice=verdict.advice,
        clears=verdict.clears,
    )
