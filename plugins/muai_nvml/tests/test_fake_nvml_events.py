"""Events of the fake driver: once per event set that waits, in order, in every process."""

import threading
from typing import Any

import pynvml
from fake_nvml import FakeNvml

WAITING = """
def listen(*indices, types=n.nvmlEventTypeXidCriticalError):
    made = n.nvmlEventSetCreate()
    for index in indices:
        n.nvmlDeviceRegisterEvents(gpu(index), types, made)
    return made
def take(events, count, timeout_ms=20000):
    taken = []
    for _ in range(count):
        one = n.nvmlEventSetWait_v2(events, timeout_ms)
        taken.append((code(n.nvmlDeviceGetIndex, one.device) or n.nvmlDeviceGetIndex(one.device),
                      one.eventType, one.eventData))
    return taken
"""
XID = pynvml.nvmlEventTypeXidCriticalError


def test_an_event_reaches_every_process_once(
    fake_nvml: FakeNvml, start_nvml_process: Any, Refused: Any
) -> None:
    both = [start_nvml_process(fake_nvml) for _ in range(2)]
    for process in both:
        process.ask(WAITING)
        process.ask("events = listen(*range(8))")
        process.send("take(events, 2)")
    fake_nvml.xid(3, 79)
    fake_nvml.xid(5, 63)
    for process in both:
        assert process.answer() == [[3, XID, 79], [5, XID, 63]]
        timeout = Refused(pynvml.NVML_ERROR_TIMEOUT)
        assert process.ask("n.nvmlEventSetWait_v2(events, 50)") == timeout


def test_a_burst_arrives_whole_and_in_order(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask(WAITING)
    nvml_process.ask("events = listen(*range(8))")
    nvml_process.send("take(events, 100)")
    writers = [
        threading.Thread(target=lambda gpu=gpu: [fake_nvml.xid(gpu, code) for code in range(50)])
        for gpu in (1, 2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    taken = nvml_process.answer()
    for gpu in (1, 2):
        assert [data for at, _, data in taken if at == gpu] == list(range(50))
    assert nvml_process.ask("code(n.nvmlEventSetWait_v2, events, 0)") == pynvml.NVML_ERROR_TIMEOUT


def test_only_what_was_registered_before(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask(WAITING)
    fake_nvml.xid(0, 1)
    nvml_process.ask("events = listen(0)")
    fake_nvml.xid(1, 2)
    fake_nvml.event(0, "ecc_double_bit")
    nvml_process.ask("n.nvmlDeviceRegisterEvents(gpu(1), 0xa, events)")
    fake_nvml.xid(1, 3)
    fake_nvml.event(1, "ecc_double_bit")
    fake_nvml.xid(0, 4)
    dbe = pynvml.nvmlEventTypeDoubleBitEccError
    assert nvml_process.ask("take(events, 3)") == [[1, XID, 3], [1, dbe, 0], [0, XID, 4]]
    assert nvml_process.ask("code(n.nvmlEventSetWait_v2, events, 0)") == pynvml.NVML_ERROR_TIMEOUT


def test_two_event_sets_of_one_process_each_get_it(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask(WAITING)
    nvml_process.ask("one, other = listen(0), listen(0)")
    fake_nvml.xid(0, 31)
    assert nvml_process.ask("take(one, 1) + take(other, 1)") == [[0, XID, 31]] * 2
    nvml_process.ask("n.nvmlEventSetFree(one)")
    fake_nvml.xid(0, 32)
    assert nvml_process.ask("take(other, 1)") == [[0, XID, 32]]


def test_what_a_gpu_does_not_support_cannot_be_registered(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    nvml_process.ask(WAITING)
    fake_nvml.set(0, event_types=8)
    refused = Refused(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert nvml_process.ask("listen(0, types=0xa)") == refused


def test_an_event_of_a_lost_gpu_names_a_handle_that_answers_nothing(
    fake_nvml: FakeNvml, nvml_process: Any
) -> None:
    nvml_process.ask(WAITING)
    nvml_process.ask("events = listen(*range(8))")
    with fake_nvml.changes():
        fake_nvml.lose(3)
        fake_nvml.xid(3, 79)
    lost = pynvml.NVML_ERROR_GPU_IS_LOST
    assert nvml_process.ask("take(events, 1)") == [[lost, XID, 79]]
    assert nvml_process.ask("code(gpu, 3)") == lost


def test_an_event_of_an_unknown_device(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask(WAITING)
    nvml_process.ask("events = listen(0)")
    fake_nvml.xid(None, 79)
    invalid = pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert nvml_process.ask("take(events, 1)") == [[invalid, XID, 79]]


def test_the_instances_of_mig_come_along(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask(WAITING)
    nvml_process.ask("events = listen(0)")
    fake_nvml.event(0, "xid", 13, instances=(2, 1))
    nvml_process.ask("one = n.nvmlEventSetWait_v2(events, 20000)")
    assert nvml_process.ask("[one.gpuInstanceId, one.computeInstanceId]") == [2, 1]
    fake_nvml.xid(0, 13)
    nvml_process.ask("one = n.nvmlEventSetWait_v2(events, 20000)")
    assert nvml_process.ask("[one.gpuInstanceId, one.computeInstanceId]") == [2**32 - 1] * 2


def test_waiting_can_fail(fake_nvml: FakeNvml, nvml_process: Any, Refused: Any) -> None:
    nvml_process.ask(WAITING)
    nvml_process.ask("events = listen(0)")
    nvml_process.send("take(events, 1)")
    fake_nvml.fail(None, "nvmlEventSetWait", pynvml.NVML_ERROR_UNKNOWN)
    assert nvml_process.answer() == Refused(pynvml.NVML_ERROR_UNKNOWN)
    fake_nvml.heal()
    fake_nvml.xid(0, 8)
    assert nvml_process.ask("take(events, 1)") == [[0, XID, 8]]


def test_one_gpu_that_hangs_holds_up_no_event(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask(WAITING)
    nvml_process.ask("events = listen(0, 1)")
    fake_nvml.hang(1)
    fake_nvml.xid(1, 119)
    nvml_process.ask("one = n.nvmlEventSetWait_v2(events, 20000)")
    assert nvml_process.ask("one.eventData") == 119
