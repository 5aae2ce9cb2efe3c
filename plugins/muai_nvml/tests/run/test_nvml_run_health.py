"""A GPU fails under `muai run`: what is told where, and what does not suffer."""

import json
import time

import pytest
from running_on_fake import Running, wait_until


@pytest.fixture
def running(start_muai) -> Running:
    return start_muai()


def failed(running: Running, index: int) -> bool:
    return running.healths()[index]["health"] == "failed"


def test_an_xid_is_told_everywhere_with_advice_until_the_gpu_is_reinstated(
    running: Running,
) -> None:
    running.fake.xid(3, 79)
    wait_until("GPU 3 failed", lambda: failed(running, 3))
    (line,) = wait_until("a line", lambda: running.lines("XID 79"))
    assert "/gpu3: failed: XID 79: fell off the bus" in line
    assert "reboot the node" in line
    told = running.healths()
    assert told[3]["recovery"] == "reboot"
    assert "XID 79" in told[3]["health_reason"]
    assert "reboot the node" in told[3]["advice"]
    assert {index: one["health"] for index, one in told.items() if index != 3} == dict.fromkeys(
        (0, 1, 2, 4, 5, 6, 7), "healthy"
    )
    seen = running.gpus()[3]
    for key in ("health", "health_reason", "advice", "recovery"):
        assert seen[key] == told[3][key]
    (row,) = [row for row in running.muai("status").splitlines() if "/gpu3 " in row]
    assert "failed" in row
    assert "reboot the node" in row
    assert running.ask() == 200

    # It still answers, and its health is latched all the same.
    sampled = seen["sampled_ago_s"]
    wait_until("a later sample", lambda: running.gpus()[3]["sampled_ago_s"] < sampled + 1)
    assert failed(running, 3)
    said = json.loads(running.muai("reinstate", running.fake.uuid(3), "--json"))
    assert said["health"] == "failed"
    wait_until("GPU 3 healthy", lambda: running.healths()[3]["health"] == "healthy")
    wait_until("its line", lambda: [one for one in running.lines("gpu3") if "healthy" in one])


def test_a_host_fault_is_one_line_and_blames_no_gpu(running: Running) -> None:
    before = running.text()
    running.fake.fail("*", "*", 999)
    wait_until("a line", lambda: len(running.text().splitlines()) > len(before.splitlines()))
    (line,) = running.lines("device source nvml")
    assert "UNKNOWN" in line
    assert {one["health"] for one in running.healths().values()} <= {"healthy", "unknown"}
    assert "failed" not in running.text()
    running.fake.heal("*")
    wait_until("its end", lambda: len(running.lines("device source nvml")) == 2)
    wait_until(
        "all healthy",
        lambda: {one["health"] for one in running.healths().values()} == {"healthy"},
    )
    assert len(running.text().splitlines()) == len(before.splitlines()) + 2
    assert running.ask() == 200


def test_a_gpu_that_hangs_delays_nobody(start_muai) -> None:
    interval_s = 0.5
    running = start_muai(interval_s=interval_s, nvml={"deadline_s": 1})
    running.fake.hang(5)
    oldest_s = slowest_s = 0.0

    def seen_failing() -> bool:
        nonlocal oldest_s, slowest_s
        gpus = running.gpus()
        oldest_s = max(oldest_s, *(gpus[i]["sampled_ago_s"] for i in gpus if i != 5))
        began_s = time.monotonic()
        assert running.ask() == 200
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        return bool(gpus[5]["health"] == "failed")

    wait_until("GPU 5 failed", seen_failing)
    assert oldest_s <= interval_s + 1
    assert slowest_s < 5
    assert "does not answer" in running.gpus()[5]["health_reason"]
    running.fake.heal(5)
    wait_until("it answers", lambda: running.gpus()[5]["sampled_ago_s"] <= interval_s + 1)
    assert failed(running, 5)
    running.muai("reinstate", running.fake.uuid(5))
    wait_until("GPU 5 healthy", lambda: running.healths()[5]["health"] == "healthy")
