"""A self-test of one GPU: `python -m muai_nvml.self_test`.

It makes a CUDA context, writes and reads back memory, and has every multiprocessor compute what has
one right answer. It takes well under a second, needs nothing but the driver, and prints one JSON
object, a `SelfTestResult`. Exit status: 0 passed, 1 something is wrong, 2 nothing was proven.
"""

import argparse
import ctypes
import os
import sys
import time

import msgspec

from muai_core.model.device import Device
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import SelfTest, SelfTestResult
from muai_nvml import self_test_kernel as kernel
from muai_nvml.cuda_driver import CudaDriver, CudaError, CudaMissing
from muai_nvml.cuda_errors import DEVICE_UNAVAILABLE, finding_of

_MIB = 2**20
#: A CUDA context takes 300 to 600 MiB, depending on the GPU.
_CONTEXT_BYTES = 900 * _MIB
_DEFAULT_MEMORY_BYTES = 64 * _MIB
_TIMEOUT_S = 30.0

_PATTERNS = (0x55555555, 0xAAAAAAAA)
_CHUNK_BYTES = 8 * _MIB
_WORD_BYTES = 4

#: Enough threads for every multiprocessor of the largest GPU, and few enough different results
#: that Python computes them in a twentieth of a second.
_BLOCKS, _THREADS_PER_BLOCK = 4096, 256
_LANES = 256
_ROUNDS = 256
_RESULT_BYTES = _BLOCKS * _THREADS_PER_BLOCK * _WORD_BYTES


class WrongResult(Exception):
    """The device did something, but not what it should; the text says what."""


def self_test_of(device: Device) -> SelfTest:
    """How to check a GPU, or a MIG instance, with this module. Does not touch the device."""
    # -P: a file in the working directory must not shadow a module.
    command = (sys.executable, "-P", "-m", "muai_nvml.self_test")
    return SelfTest(
        argv=(*command, "--memory-bytes", str(_DEFAULT_MEMORY_BYTES)),
        # What the driver compiles for the test is not worth a place on a disk.
        env={"CUDA_CACHE_DISABLE": "1"},
        timeout_s=_TIMEOUT_S,
        memory_bytes=_CONTEXT_BYTES + _DEFAULT_MEMORY_BYTES,
    )


def main(argv: list[str]) -> int:
    """Prints the result of one self-test; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m muai_nvml.self_test",
        description="Checks the one GPU that CUDA_VISIBLE_DEVICES shows.",
    )
    parser.add_argument(
        "--memory-bytes",
        type=_memory_bytes,
        default=_DEFAULT_MEMORY_BYTES,
        help="how much memory to write and read back (default: %(default)s)",
    )
    result = check(parser.parse_args(argv).memory_bytes)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    if result.finding is not None:
        return 1
    return 0 if result.inconclusive is None else 2


def check(memory_bytes: int) -> SelfTestResult:
    """Checks the visible GPU in this process, which keeps the CUDA context for good."""
    try:
        return _checked(CudaDriver(), memory_bytes)
    except CudaMissing as missing:
        return SelfTestResult(inconclusive=str(missing))
    except WrongResult as wrong:
        return SelfTestResult(finding=_wrong(str(wrong)))
    except CudaError as error:
        meaning = finding_of(error.call, error.code, error.driver_words)
        if isinstance(meaning, Finding):
            return SelfTestResult(finding=meaning)
        return SelfTestResult(inconclusive=meaning)


def _checked(cuda: CudaDriver, memory_bytes: int) -> SelfTestResult:
    began_s = time.perf_counter()
    cuda.initialize()
    count = cuda.device_count()
    if count != 1:
        return SelfTestResult(
            inconclusive=f"CUDA shows {count} devices; set CUDA_VISIBLE_DEVICES to the UUID of one"
        )
    device = cuda.device(0)
    name = cuda.device_name(device)
    is_shared = cuda.is_shared(device)
    try:
        cuda.open_context(device)
    except CudaError as error:
        if error.code == DEVICE_UNAVAILABLE and not is_shared:
            words = "another process has the GPU to itself, as its compute mode permits"
            return SelfTestResult(inconclusive=words)
        raise
    free_bytes = cuda.memory_free_bytes()
    if free_bytes < memory_bytes:
        return SelfTestResult(
            inconclusive=f"{memory_bytes // _MIB} MiB are to be tested, and of the device's memory "
            f"{free_bytes // _MIB} MiB are free"
        )
    address = cuda.allocate(memory_bytes)
    for pattern in _PATTERNS:
        _check_memory(cuda, address, memory_bytes, pattern)
    _check_computation(cuda, address)
    cuda.free(address)
    cuda.close_context(device)
    return SelfTestResult(
        detail=f"{name}: {memory_bytes // _MIB} MiB kept what was written, "
        f"{_BLOCKS * _THREADS_PER_BLOCK} threads computed what is right, "
        f"in {time.perf_counter() - began_s:.2f} s"
    )


def _check_memory(cuda: CudaDriver, address: int, size_bytes: int, pattern: int) -> None:
    """Raises WrongResult when the memory does not keep the 32 bits of the pattern."""
    cuda.fill(address, pattern, size_bytes // _WORD_BYTES)
    right = pattern.to_bytes(_WORD_BYTES, "little") * (_CHUNK_BYTES // _WORD_BYTES)
    chunk = ctypes.create_string_buffer(_CHUNK_BYTES)
    for start in range(0, size_bytes, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, size_bytes - start)
        cuda.read(address + start, length, chunk)
        if chunk.raw[:length] != right[:length]:
            raise WrongResult(f"memory did not keep 0x{pattern:08X} that was written to it")


def _check_computation(cuda: CudaDriver, address: int) -> None:
    """Raises WrongResult when a thread computes anything but what is right."""
    module = cuda.load_module(kernel.PTX)
    function = cuda.function(module, kernel.NAME)
    # So that what an earlier test has left there cannot pass for a result.
    cuda.fill(address, 0, _RESULT_BYTES // _WORD_BYTES)
    parameters = (
        ctypes.c_uint64(address),
        ctypes.c_uint32(_BLOCKS * _THREADS_PER_BLOCK),
        ctypes.c_uint32(_LANES - 1),
        ctypes.c_uint32(_ROUNDS),
    )
    cuda.launch(function, _BLOCKS, _THREADS_PER_BLOCK, parameters)
    period = b"".join(
        kernel.expected(lane, _ROUNDS).to_bytes(_WORD_BYTES, "little") for lane in range(_LANES)
    )
    cuda.synchronize()
    results = ctypes.create_string_buffer(_RESULT_BYTES)
    cuda.read(address, _RESULT_BYTES, results)
    cuda.unload_module(module)
    if results.raw != period * (_RESULT_BYTES // len(period)):
        wrong = _count_wrong(results.raw, period)
        raise WrongResult(f"{wrong} of {_BLOCKS * _THREADS_PER_BLOCK} threads computed wrongly")


def _count_wrong(results: bytes, period: bytes) -> int:
    words = memoryview(results).cast("I")
    right = memoryview(period).cast("I")
    return sum(word != right[thread % len(right)] for thread, word in enumerate(words))


def _wrong(words: str) -> Finding:
    return Finding(
        kind="self_test",
        severity=Health.FAILED,
        recovery="service",
        reason=f"self-test: {words}",
        advice="have the GPU examined and replaced: it gives wrong results",
        clears="repaired",
    )


def _memory_bytes(text: str) -> int:
    size_bytes = int(text)
    if size_bytes < _RESULT_BYTES or size_bytes % _WORD_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text} is not possible: at least {_RESULT_BYTES}, and divisible by {_WORD_BYTES}"
        )
    return size_bytes


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # What the driver clears away in an ordinary exit can hang on a sick GPU.
    os._exit(status)
