"""The self-test of a GPU on a fake libcuda.so.1: what each fault makes of the device."""

import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from muai_nvml.cuda_errors import VERDICTS
from muai_nvml.self_test import self_test_of

from muai_core.control.actions import CheckDevice
from muai_core.control.events import DeviceChecked
from muai_core.model.device import Device, Inventory
from muai_core.model.health import Health
from muai_core.plugin.device_source import DeviceSource, SelfTest, SelfTestResult
from muai_core.runtime.self_tests import SelfTests

# The import mode leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent / "fake_cuda"))

from fake_cuda_build import SOURCE, build

DEADLINE_S = 120
MIB = 2**20
#: Every call that a passed self-test makes.
CALLS = sorted(set(re.findall(r"^int (cu\w+)\(", SOURCE.read_text(), re.MULTILINE)))
CALLS.remove("cuGetErrorName")
#: CUresult in cuda.h of CUDA 13.0: those that say something about the device.
FAILED = {214, 220, 700, 714, 715, 716, 717, 718, 719}
SUSPECT = {46, 100, 101, 226, 702, 802, 999}

GPU = Device(
    uuid="GPU-a",
    node="box",
    index=0,
    kind="gpu",
    platform="cuda",
    name="Fake CUDA GPU",
    memory_total_bytes=80 * 2**30,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the fake libcuda.so.1."""
    return build(tmp_path_factory.mktemp("fake-cuda"))


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Callable[..., SelfTestResult]:
    """Run the self-test on the fake driver with these faults."""

    def run(*faults: str, memory_bytes: int = 8 * MIB, visible: str = "GPU-a") -> SelfTestResult:
        (tmp_path / "faults").write_text("".join(f"{fault}\n" for fault in faults))
        env = os.environ | {
            "LD_LIBRARY_PATH": str(library),
            "FAKE_CUDA": str(tmp_path / "faults"),
            "CUDA_VISIBLE_DEVICES": visible,
        }
        argv = (*self_test_of(GPU).argv[:-1], str(memory_bytes))
        ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DEADLINE_S)
        assert ended.stderr == ""
        result = msgspec.json.decode(ended.stdout, type=SelfTestResult)
        proven = result.inconclusive is None
        assert ended.returncode == (2 if not proven else 1 if result.finding else 0)
        return result

    return run


def test_a_good_gpu_passes(run: Callable[..., SelfTestResult]) -> None:
    result = run()
    assert (result.finding, result.inconclusive) == (None, None)
    assert result.detail.startswith(
        "Fake CUDA GPU: 8 MiB kept what was written, 1048576 threads computed what is right, in "
    )


@pytest.mark.parametrize("thread", [0, 255, 256, 1048575])
def test_one_wrong_bit_of_a_computation_is_a_failed_gpu(
    run: Callable[..., SelfTestResult], thread: int
) -> None:
    finding = run(f"flip thread {thread}").finding
    assert finding is not None
    assert (finding.kind, finding.code, finding.severity) == ("self_test", None, Health.FAILED)
    assert (finding.recovery, finding.clears) == ("service", "repaired")
    assert finding.reason == "self-test: 1 of 1048576 threads computed wrongly"


@pytest.mark.parametrize("byte", [0, 8 * MIB - 1, 8 * MIB, 20 * MIB - 1])
def test_one_stuck_bit_of_memory_is_a_failed_gpu(
    run: Callable[..., SelfTestResult], byte: int
) -> None:
    finding = run(f"flip memory {byte}", memory_bytes=20 * MIB).finding
    assert finding is not None
    assert (finding.severity, finding.recovery) == (Health.FAILED, "service")
    assert finding.reason == "self-test: memory did not keep 0xAAAAAAAA that was written to it"


@pytest.mark.parametrize("call", CALLS)
def test_a_failure_of_any_call_is_seen(run: Callable[..., SelfTestResult], call: str) -> None:
    finding = run(f"fail {call} 719").finding
    assert finding is not None
    assert finding.reason == (
        f"self-test: {call} returned CUDA_ERROR_LAUNCH_FAILED (719): "
        "it failed while it ran the program"
    )
    assert (finding.key, finding.severity) == ("self_test:719", Health.FAILED)
    excuse = run(f"fail {call} 801").inconclusive or ""
    assert excuse.startswith(f"{call} returned CUDA_ERROR_NOT_SUPPORTED (801): it is not supported")


@pytest.mark.parametrize("code", [*sorted(VERDICTS), 1, 3, 201, 400, 600, 12345, 99999])
def test_every_code_is_judged(run: Callable[..., SelfTestResult], code: int) -> None:
    result = run(f"fail cuCtxSynchronize {code}")
    severity = None if result.finding is None else result.finding.severity
    expected = Health.FAILED if code in FAILED else Health.SUSPECT if code in SUSPECT else None
    assert severity is expected
    if result.finding is not None:
        assert result.finding.advice
        assert (result.finding.recovery is not None) == (severity is Health.FAILED)
    else:
        assert f"({code})" in str(result.inconclusive)


def test_the_table_has_every_code_that_speaks_of_the_device() -> None:
    assert {code for code, row in VERDICTS.items() if row.severity is Health.FAILED} == FAILED
    assert {code for code, row in VERDICTS.items() if row.severity is Health.SUSPECT} == SUSPECT


def test_an_unknown_code_is_named_as_the_driver_names_it(
    run: Callable[..., SelfTestResult],
) -> None:
    assert run("fail cuMemFree_v2 12345").inconclusive == (
        "cuMemFree_v2 returned CUDA_ERROR_OF_TOMORROW (12345), which proves nothing"
    )


def test_what_the_drivers_compiler_says_is_told(run: Callable[..., SelfTestResult]) -> None:
    excuse = run("fail cuModuleLoadDataEx 218").inconclusive
    assert excuse == (
        "cuModuleLoadDataEx returned CUDA_ERROR_INVALID_PTX (218): "
        "the driver cannot compile the test program (ptxas fatal: fake)"
    )


def test_no_memory_proves_nothing(run: Callable[..., SelfTestResult]) -> None:
    assert run("free 4000000").inconclusive == (
        "8 MiB are to be tested, and of the device's memory 3 MiB are free"
    )
    assert "the device has no memory left" in str(run("fail cuMemAlloc_v2 2").inconclusive)


def test_a_gpu_that_another_process_has_to_itself_is_not_suspect(
    run: Callable[..., SelfTestResult],
) -> None:
    assert run("mode 3").finding is None
    assert run("mode 3", "fail cuDevicePrimaryCtxRetain 46").inconclusive == (
        "another process has the GPU to itself, as its compute mode permits"
    )
    unavailable = run("fail cuDevicePrimaryCtxRetain 46").finding
    assert unavailable is not None
    assert (unavailable.severity, unavailable.code) == (Health.SUSPECT, 46)


def test_it_wants_to_see_exactly_one_device(run: Callable[..., SelfTestResult]) -> None:
    excuse = run(visible="GPU-a,GPU-b").inconclusive
    assert excuse == "CUDA shows 2 devices; set CUDA_VISIBLE_DEVICES to the UUID of one"
    lost = run(visible="").finding
    assert lost is not None
    assert (lost.severity, lost.code) == (Health.SUSPECT, 100)


def without_driver(directory: Path) -> str:
    env = os.environ | {"LD_LIBRARY_PATH": str(directory), "CUDA_VISIBLE_DEVICES": "GPU-a"}
    ended = subprocess.run(
        self_test_of(GPU).argv, env=env, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert ended.returncode == 2
    return str(msgspec.json.decode(ended.stdout, type=SelfTestResult).inconclusive)


def test_a_host_without_a_usable_driver_proves_nothing(library: Path, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("not a library")
    assert without_driver(tmp_path).startswith("the CUDA driver cannot be loaded: ")
    old = ["gcc", "-shared", "-o", str(tmp_path / "libcuda.so.1"), "-x", "c", "-"]
    subprocess.run(old, input="int cuInit(unsigned f) { return f; }", text=True, check=True)
    assert without_driver(tmp_path) == "the CUDA driver is too old: it has no cuDeviceGetCount"


@pytest.mark.parametrize("size", ["0", "4194300", "8388609", "x", "-1"])
def test_a_wrong_size_is_a_usage_error(size: str) -> None:
    argv = (*self_test_of(GPU).argv[:-1], size)
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--memory-bytes" in ended.stderr


def test_describing_it_costs_nothing() -> None:
    code = (
        "import sys; import muai_nvml.self_test as t; "
        "bad = {'torch', 'pynvml', 'pydantic', 'numpy'} & set(sys.modules); print(sorted(bad))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


# As the controller runs it


class FakeSource(DeviceSource):
    name = "fake"

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.timeout_s = float(DEADLINE_S)

    def observe(self, now_s: float) -> Inventory:
        return Inventory(source=self.name, observed_at_s=now_s, devices=(GPU,))

    def self_test(self, device: Device) -> SelfTest:
        spec = self_test_of(device)
        env = {**spec.env, **self.env}
        return msgspec.structs.replace(spec, env=env, timeout_s=self.timeout_s)


class Runner:
    """One self-test at a time on the fake driver, the way a controller orders it."""

    def __init__(self, library: Path, faults: Path) -> None:
        self.faults = faults
        env = {"LD_LIBRARY_PATH": str(library), "FAKE_CUDA": str(faults)}
        self.source = FakeSource(env)
        self.told: list[DeviceChecked] = []
        self.tests = SelfTests({"fake": self.source}, "box", self._emit, time.monotonic)

    def _emit(self, event: object) -> None:
        assert isinstance(event, DeviceChecked)
        self.told.append(event)

    async def check(self, *faults: str, timeout_s: float = DEADLINE_S) -> DeviceChecked:
        self.faults.write_text("".join(f"{fault}\n" for fault in faults))
        self.source.timeout_s = timeout_s
        order = CheckDevice(
            device=GPU,
            source="fake",
            check=1,
            deadline_at_s=time.monotonic() + DEADLINE_S,
            memory_free_bytes=2**30,
        )
        self.tests.start(order)
        (running,) = self.tests._running.values()
        await running
        return self.told.pop()


@pytest.fixture
async def runner(library: Path, tmp_path: Path) -> AsyncIterator[Runner]:
    runner = Runner(library, tmp_path / "faults")
    yield runner
    assert await runner.tests.close() == ()


async def test_the_controller_learns_what_it_found(runner: Runner) -> None:
    passed = await runner.check()
    assert (passed.uuid, passed.check, passed.finding, passed.inconclusive) == (
        "GPU-a",
        1,
        None,
        None,
    )
    assert "64 MiB kept what was written" in passed.detail
    broken = await runner.check("fail cuCtxSynchronize 214")
    assert broken.finding is not None
    assert (broken.finding.key, broken.finding.recovery) == ("self_test:214", "reset")


@pytest.mark.parametrize("call", ["cuInit", "cuCtxSynchronize", "cuDevicePrimaryCtxRelease_v2"])
async def test_a_hanging_driver_proves_nothing_and_leaves_nothing(
    runner: Runner, call: str
) -> None:
    told = await runner.check(f"hang {call}", timeout_s=3.0)
    assert told.finding is None
    assert str(told.inconclusive).startswith("it was not done after 3 s and was killed")
