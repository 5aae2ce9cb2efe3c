"""A self-test of one GPU, started and waited for by whoever asks."""

import os
import signal
import subprocess
import tempfile
from typing import IO

from muai_core.model.device import Device
from muai_core.planning.wording import described, gib
from muai_core.plugin.device_source import DeviceSource, SelfTest, SelfTestResult
from muai_core.runtime.process import Exit
from muai_core.runtime.self_tests import (
    NothingProven,
    read_result,
    self_test_environment,
    tidied,
    well_formed,
)

_OUTPUT_MAX_BYTES = 1024 * 1024


def checked_actively(
    source: DeviceSource, device: Device, memory_free_bytes: int
) -> SelfTestResult:
    """What the source's self-test says of the device; inconclusive when it cannot be run.

    Blocks as long as the self-test may take. `memory_free_bytes` is what it may use.
    """
    try:
        spec = _asked(source, device)
        if spec.memory_bytes > memory_free_bytes:
            raise NothingProven(
                f"it takes {gib(spec.memory_bytes)} of the device's memory, "
                f"{gib(memory_free_bytes)} are free"
            )
        return tidied(_carried_out(device, spec))
    except NothingProven as why:
        return tidied(SelfTestResult(inconclusive=str(why)))


def _asked(source: DeviceSource, device: Device) -> SelfTest:
    try:
        answer = source.self_test(device)
        if answer is None:
            raise NothingProven(f"device source {source.name} has no self-test for this device")
        return well_formed(answer)
    except NothingProven:
        raise
    except Exception as error:
        words = f"device source {source.name} could not say how to test it: {described(error)}"
        raise NothingProven(words) from error


def _carried_out(device: Device, spec: SelfTest) -> SelfTestResult:
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                spec.argv,
                env=self_test_environment(device, spec),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise NothingProven(f"it cannot be started: {error}") from error
        status = _waited_for(process, spec.timeout_s)
        ended = Exit(status=status) if status >= 0 else Exit(signal=-status)
        return read_result(_text(stdout), _text(stderr), ended)


def _waited_for(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Its exit status as `Popen.returncode`. Whatever happens, the process has ended."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise NothingProven(f"it was not done after {timeout_s:g} s and was killed") from None
    finally:
        if process.returncode is None:
            # Not waited for yet, so its process group cannot be anybody else's.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_OUTPUT_MAX_BYTES).decode("utf-8", errors="replace")
