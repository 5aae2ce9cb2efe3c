"""What can go wrong with a GPU, its driver or the library, as the real pynvml sees it."""

from typing import Any

import pynvml
import pytest
from fake_nvml import FakeNvml
from fake_nvml_build import symbols

LOST = pynvml.NVML_ERROR_GPU_IS_LOST
CODES = sorted(
    value
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
)

#: The functions of the library, whatever their version.
STEMS = {name.split("_v")[0] for name in symbols()}


def test_every_code_on_every_getter(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("handles = [gpu(i) for i in range(8)]")
    healthy = nvml_process.ask("codes(handles[2])")
    assert len(healthy) > 60
    for code in CODES:
        fake_nvml.fail(3, "*", code)
        assert set(nvml_process.ask("codes(handles[3])").values()) == {code}
        assert nvml_process.ask("code(gpu, 3)") == code
    assert nvml_process.ask("codes(handles[2])") == healthy
    fake_nvml.heal(3)
    assert nvml_process.ask("codes(handles[3])") == healthy


def test_each_getter_fails_alone(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("handles = [gpu(i) for i in range(8)]")
    healthy = nvml_process.ask("codes(handles[3])")
    played = [name for name, code in healthy.items() if code == 0 and _stem(name) in STEMS]
    for name in played:
        fake_nvml.fail(3, name, pynvml.NVML_ERROR_UNKNOWN)
        failing = nvml_process.ask("codes(handles[3])")
        assert failing[name] == pynvml.NVML_ERROR_UNKNOWN, name
        others = {key for key in failing if failing[key] != healthy[key]}
        assert {key for key in others if _stem(key) in STEMS} <= _versions(name)
        fake_nvml.fail(3, name, 0)
    assert nvml_process.ask("codes(handles[3])") == healthy


def _stem(name: str) -> str:
    return name.split("_v")[0]


def _versions(name: str) -> set[str]:
    return {_stem(name), *(f"{_stem(name)}_v{number}" for number in (1, 2, 3))}


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NO_PERMISSION])
def test_a_code_for_all_gpus_and_for_the_library(
    code: int, fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    nvml_process.ask("handles = [gpu(i) for i in range(8)]")
    fake_nvml.fail("*", "nvmlDeviceGetPowerUsage", code)
    assert nvml_process.ask("[code(n.nvmlDeviceGetPowerUsage, h) for h in handles]") == [code] * 8
    assert nvml_process.ask("n.nvmlDeviceGetTemperatureV(handles[0], 0)") == 31
    fake_nvml.heal("*")
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(handles[0])") == 76532
    fake_nvml.fail(None, "nvmlDeviceGetCount", code)
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == Refused(code)
    fake_nvml.fail(None, "nvmlDeviceGetHandleByIndex", code)
    assert nvml_process.ask("gpu(0)") == Refused(code)
    fake_nvml.fail(None, "nvmlInit", code)
    assert nvml_process.ask("n.nvmlInit()") == Refused(code)
    fake_nvml.heal()
    assert nvml_process.ask("n.nvmlInit()") is None
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == 8


def test_a_lost_gpu_answers_nothing_else(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    nvml_process.ask("handles = [gpu(i) for i in range(8)]")
    fake_nvml.lose(3)
    assert set(nvml_process.ask("codes(handles[3])").values()) == {LOST}
    assert nvml_process.ask("gpu(3)") == Refused(LOST)
    by_uuid = f"n.nvmlDeviceGetHandleByUUID('{fake_nvml.uuid(3)}')"
    assert nvml_process.ask(by_uuid) == Refused(LOST)
    by_bus = f"n.nvmlDeviceGetHandleByPciBusId('{fake_nvml.get(3, 'pci_bus_id')}')"
    assert nvml_process.ask(by_bus) == Refused(LOST)
    assert nvml_process.ask("n.nvmlDeviceGetP2PStatus(handles[2], handles[3], 0)") == Refused(LOST)
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == 8
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(handles[2])") == 76532


def test_a_gpu_that_needs_a_reset_still_says_which_it_is(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    fake_nvml.require_reset(3)
    assert nvml_process.ask("n.nvmlDeviceGetUUID(gpu(3))") == fake_nvml.uuid(3)
    refused = Refused(pynvml.NVML_ERROR_RESET_REQUIRED)
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(gpu(3))") == refused


def test_a_vanished_gpu_is_not_counted_and_the_later_ones_move_up(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    nvml_process.ask("old = gpu(3)")
    fake_nvml.vanish(3)
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == 7
    assert nvml_process.ask("n.nvmlDeviceGetUUID(gpu(3))") == fake_nvml.uuid(4)
    assert nvml_process.ask("n.nvmlDeviceGetIndex(gpu(6))") == 6
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(old)") == Refused(LOST)
    by_uuid = f"n.nvmlDeviceGetHandleByUUID('{fake_nvml.uuid(3)}')"
    assert nvml_process.ask(by_uuid) == Refused(pynvml.NVML_ERROR_NOT_FOUND)
    fake_nvml.heal(3)
    assert nvml_process.ask("n.nvmlDeviceGetUUID(gpu(3))") == fake_nvml.uuid(3)
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(old)") == 76532


def test_a_restarted_driver_wants_to_be_initialised_again(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    uninitialized = Refused(pynvml.NVML_ERROR_UNINITIALIZED)
    nvml_process.ask(
        "events = n.nvmlEventSetCreate(); n.nvmlDeviceRegisterEvents(gpu(0), 8, events)"
    )
    fake_nvml.restart_driver()
    for call in (
        "n.nvmlDeviceGetCount()",
        "gpu(0)",
        "n.nvmlSystemGetDriverVersion()",
        "n.nvmlEventSetWait(events, 0)",
        "n.nvmlShutdown()",
    ):
        assert nvml_process.ask(call) == uninitialized, call
    nvml_process.ask("n.nvmlInit()")
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == 8
    stale = Refused(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    assert nvml_process.ask("n.nvmlEventSetWait(events, 0)") == stale


def test_calls_before_init_and_after_shutdown(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    nvml_process.ask("n.nvmlInit()")
    nvml_process.ask("n.nvmlShutdown()")
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == 8
    nvml_process.ask("n.nvmlShutdown()")
    uninitialized = Refused(pynvml.NVML_ERROR_UNINITIALIZED)
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == uninitialized
    assert nvml_process.ask("n.nvmlErrorString(15)") == "GPU is lost"


def test_a_gpu_that_hangs_blocks_nobody_else(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("handles = [gpu(i) for i in range(8)]")
    nvml_process.ask("answers = []")
    nvml_process.ask(
        "blocked = [threading.Thread(target=lambda f=f: answers.append(f(handles[2])), daemon=True)"
        " for f in (n.nvmlDeviceGetPowerUsage, n.nvmlDeviceGetUUID)]"
    )
    fake_nvml.hang(2)
    nvml_process.ask("for one in blocked: one.start()")
    for temperature in range(40, 60):
        fake_nvml.set("*", temperature_celsius=temperature)
        read = "[n.nvmlDeviceGetTemperatureV(h, 0) for i, h in enumerate(handles) if i != 2]"
        assert nvml_process.ask(read) == [temperature] * 7
    assert nvml_process.ask("[one.is_alive() for one in blocked] + answers") == [True, True]
    fake_nvml.heal(2)
    nvml_process.ask("for one in blocked: one.join()")
    answers = nvml_process.ask("answers")
    assert sorted(answers, key=str) == sorted([76532, fake_nvml.uuid(2)], key=str)


def test_one_getter_hangs_and_the_others_answer(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("handles = [gpu(i) for i in range(8)]")
    fake_nvml.hang(2, function="nvmlDeviceGetHandleByIndex")
    nvml_process.ask("blocked = threading.Thread(target=gpu, args=(2,), daemon=True)")
    nvml_process.ask("blocked.start()")
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(handles[2])") == 76532
    assert nvml_process.ask("n.nvmlDeviceGetUUID(gpu(1))") == fake_nvml.uuid(1)
    assert nvml_process.ask("blocked.is_alive()")
    fake_nvml.hang(2, 0, function="nvmlDeviceGetHandleByIndex")
    nvml_process.ask("blocked.join()")


def test_a_hang_of_n_seconds_lasts_that_long(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("handles = [gpu(i) for i in range(8)]")
    fake_nvml.hang(2, 0.2)
    nvml_process.ask("start = time.monotonic()")
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(handles[2])") == 76532
    assert nvml_process.ask("time.monotonic() - start") >= 0.2


def test_init_can_hang(fake_nvml: FakeNvml, start_nvml_process: Any, nvml_process: Any) -> None:
    fake_nvml.hang(None, function="nvmlInit")
    late = start_nvml_process(fake_nvml, initialised=False)
    late.send("n.nvmlInit()")
    assert nvml_process.ask("n.nvmlDeviceGetCount()") == 8
    fake_nvml.heal()
    assert late.answer() is None
    assert late.ask("n.nvmlDeviceGetCount()") == 8


def test_several_changes_are_seen_at_once(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("h = gpu(0)")
    with fake_nvml.changes():
        fake_nvml.set(0, memory_used_bytes=7)
        fake_nvml.lose(1)
        assert nvml_process.ask("n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).used") == 0
    assert nvml_process.ask("n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).used") == 7
    assert nvml_process.ask("code(gpu, 1)") == LOST


def test_two_quick_changes_are_both_seen(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("h = gpu(0)")
    for temperature in range(100, 300):
        fake_nvml.set(0, temperature_celsius=temperature)
        assert nvml_process.ask("n.nvmlDeviceGetTemperatureV(h, 0)") == temperature


def test_a_function_that_nobody_knows_is_a_mistake(fake_nvml: FakeNvml) -> None:
    with pytest.raises(ValueError, match="nvmlDeviceGetPowerUse"):
        fake_nvml.fail(0, "nvmlDeviceGetPowerUse", 999)


def test_a_profile_that_nobody_knows_is_a_mistake(make_fake_nvml: Any) -> None:
    with pytest.raises(ValueError, match=r"h100.*a100, b200, h200, l4, rtx4090, v100"):
        make_fake_nvml(8, "h100")
