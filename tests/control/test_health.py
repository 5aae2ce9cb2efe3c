"""The laws of device health: what ends a finding, what never does, and that memory is bounded."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from muai_core.control import events as ev
from muai_core.control import health, tally
from muai_core.control.actions import CheckDevice
from muai_core.control.health import ENDS, Ending, ends
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings, DeviceHealth, HealthSettings, SelfTestRecord
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.model.health import RECOVERY_ACTION, Clears, Finding, Health, worst
from muai_core.planning.balanced import Balanced

SETTINGS = HealthSettings()
CLEARS: tuple[Clears, ...] = ("at_once", "clean", "checked", "tested", "repaired")
TROUBLE = [state for state in Health if state is not Health.HEALTHY]


def finding(
    severity: Health = Health.FAILED, clears: Clears = "clean", kind: str = "xid", **more: Any
) -> Finding:
    return Finding(kind=kind, severity=severity, reason=f"{kind}!", clears=clears, **more)


def read(condition: DeviceHealth, at_s: float, *findings: Finding) -> DeviceHealth:
    return health.read(condition, findings, at_s, at_s, at_s, SETTINGS)[0]


def happened(condition: DeviceHealth, one: Finding, at_s: float, **more: Any) -> DeviceHealth:
    return health.happened(condition, one, at_s, at_s, SETTINGS, **more)


def self_tested(condition: DeviceHealth, at_s: float) -> DeviceHealth:
    """After one more self-test, asked for and passed at that time."""
    check = 1 if condition.self_test is None else condition.self_test.check + 1
    asked = SelfTestRecord(check=check, asked_at_s=at_s, deadline_at_s=at_s + 1)
    return health.passed(structs.replace(condition, self_test=asked), check, at_s)[0]


def test_the_table_has_a_row_for_every_finding() -> None:
    assert set(ENDS) == set(itertools.product(CLEARS, (False, True)))
    assert all(Ending.REINSTATED in endings for endings in ENDS.values())


@pytest.mark.parametrize("clears", CLEARS)
@pytest.mark.parametrize("severity", TROUBLE)
def test_what_happened_once_ends_as_the_table_says(clears: Clears, severity: Health) -> None:
    one = finding(severity, clears)
    open_now = happened(DeviceHealth(), one, 1.0)
    assert open_now.state is severity
    after_one = read(open_now, 2.0)
    assert (after_one.state is Health.HEALTHY) == ends(one, Ending.ABSENT)
    after_three = read(read(after_one, 3.0), 4.0)
    assert (after_three.state is Health.HEALTHY) == ends(one, Ending.CLEAN)
    after_hours = after_three
    for second in range(5, 5000):
        after_hours = read(after_hours, float(second))
    assert after_hours.state is after_three.state
    assert (self_tested(open_now, 2.0).state is Health.HEALTHY) == ends(one, Ending.PASSED)
    assert health.reinstated(after_hours, 6000.0)[0].state is Health.HEALTHY


@pytest.mark.parametrize("clears", CLEARS)
@pytest.mark.parametrize("severity", TROUBLE)
def test_a_condition_that_holds_is_ended_by_nothing(clears: Clears, severity: Health) -> None:
    one = finding(severity, clears)
    condition = read(DeviceHealth(), 1.0, one)
    for second in range(2, 20):
        condition = self_tested(read(condition, float(second), one), float(second))
        assert condition.state is severity
    again = read(health.reinstated(condition, 20.0)[0], 21.0, one)
    assert again.state is severity


def test_only_what_a_later_self_test_could_see_is_cleared_by_it() -> None:
    asked = SelfTestRecord(check=1, asked_at_s=1.0, deadline_at_s=9.0)
    condition = structs.replace(DeviceHealth(), self_test=asked)
    condition = happened(condition, finding(clears="checked"), 2.0)
    assert health.passed(condition, 1, 3.0)[0].state is Health.FAILED
    assert self_tested(condition, 4.0).state is Health.HEALTHY


def test_a_sample_that_is_older_than_the_finding_proves_nothing() -> None:
    condition = happened(DeviceHealth(), finding(Health.DEGRADED, "at_once"), 10.0)
    late = health.read(condition, (), 11.0, 9.0, 11.0, SETTINGS)[0]
    repeated = health.read(condition, (), 12.0, None, 12.0, SETTINGS)[0]
    assert late.state is repeated.state is Health.DEGRADED
    assert read(condition, 13.0).state is Health.HEALTHY


def test_a_repair_needs_both_the_withdrawal_and_a_self_test_after_it() -> None:
    asks = finding(clears="repaired", kind=RECOVERY_ACTION, code=2)
    broken = happened(DeviceHealth(), finding(clears="repaired", code=79), 1.0)
    asked_for = read(broken, 2.0, asks)
    assert self_tested(asked_for, 3.0).state is Health.FAILED
    withdrawn = read(asked_for, 4.0)
    assert withdrawn.state is Health.FAILED
    assert self_tested(withdrawn, 5.0).state is Health.HEALTHY
    # Without a recovery action that was there before, a self-test is not enough.
    assert self_tested(broken, 5.0).state is Health.FAILED


def test_what_breaks_after_the_withdrawal_is_not_repaired_by_it() -> None:
    asks = finding(clears="checked", kind=RECOVERY_ACTION, code=2)
    condition = happened(DeviceHealth(), finding(clears="repaired", code=79), 1.0)
    condition = read(read(condition, 2.0, asks), 3.0)
    condition = happened(condition, finding(clears="repaired", code=95), 4.0)
    condition = self_tested(condition, 5.0)
    assert [one.finding.code for one in condition.open] == [95]


@pytest.mark.parametrize("clears", CLEARS)
def test_the_withdrawn_recovery_action_waits_for_the_others(clears: Clears) -> None:
    asks = finding(clears=clears, kind=RECOVERY_ACTION, code=1)
    condition = happened(DeviceHealth(), finding(clears="repaired", code=95), 1.0)
    condition = read(condition, 2.0, asks)
    for second in range(3, 9):
        condition = read(condition, float(second))
    assert condition.state is Health.FAILED
    assert self_tested(condition, 9.0).open == ()


def test_a_latched_condition_does_not_soften_itself() -> None:
    condition = read(DeviceHealth(), 1.0, finding(clears="checked"))
    condition = read(condition, 2.0, finding(Health.DEGRADED, "clean"))
    assert condition.state is Health.FAILED
    soft = read(DeviceHealth(), 1.0, finding(clears="clean"))
    assert read(soft, 2.0, finding(Health.DEGRADED, "clean")).state is Health.DEGRADED


def test_the_worst_finding_decides_and_of_equals_the_greatest_repair() -> None:
    condition = happened(DeviceHealth(), finding(Health.DEGRADED, kind="slow"), 1.0)
    condition = happened(condition, finding(code=95, recovery="reset"), 2.0)
    condition = happened(condition, finding(code=79, recovery="reboot"), 3.0)
    condition = happened(condition, finding(code=46, recovery="reset"), 4.0)
    assert (condition.state, condition.recovery) == (Health.FAILED, "reboot")
    assert worst([]) is None


def test_the_state_keeps_the_time_of_its_beginning() -> None:
    condition = happened(DeviceHealth(), finding(code=79), 5.0)
    condition = happened(condition, finding(code=95), 9.0)
    assert condition.since_s == 5.0


def test_a_burst_counts_once_and_bursts_make_suspect() -> None:
    fault = finding(Health.HEALTHY, "clean", code=31, repeat_limit=3)
    condition = DeviceHealth()
    for begins_s in (0.0, 200.0, 400.0):
        assert condition.state is Health.HEALTHY
        for number in range(100):
            condition = happened(condition, fault, begins_s + number)
    assert condition.state is Health.SUSPECT
    assert condition.cause == "xid!; 3 times within 24 h, on no other device"
    assert condition.counts == {"xid:31": 300}
    # Further ones do not lift it.
    assert happened(condition, fault, 500.0).state is Health.SUSPECT


def test_what_other_devices_show_too_is_held_against_none() -> None:
    fault = finding(Health.HEALTHY, "clean", code=13, repeat_limit=2)
    condition = DeviceHealth()
    for begins_s in (0.0, 200.0, 400.0, 600.0):
        condition = happened(condition, fault, begins_s, elsewhere=True)
    assert condition.state is Health.HEALTHY


def test_repetitions_long_ago_do_not_count() -> None:
    fault = finding(Health.HEALTHY, "clean", code=31, repeat_limit=2)
    condition = DeviceHealth()
    for day in range(50):
        condition = happened(condition, fault, day * 86_401.0)
    assert condition.state is Health.HEALTHY
    assert len(condition.bursts["xid:31"]) == 1


def test_memory_is_bounded_whatever_is_found() -> None:
    condition = DeviceHealth()
    for number in range(500):
        one = finding(Health.DEGRADED, kind=f"kind{number}", repeat_limit=10**9)
        condition = happened(condition, one, number * 1000.0)
    condition = happened(condition, finding(code=79), 1e6)
    for number in range(200):
        condition = happened(condition, finding(Health.DEGRADED, code=1), 1e6 + number * 200.0)
    shown = [finding(Health.SUSPECT, kind=f"shown{number}") for number in range(500)]
    condition = read(condition, 2e6, *shown)
    assert len(condition.open) == health.MOST_OPEN
    assert condition.state is Health.FAILED
    assert len(condition.counts) == tally.MOST_KEYS + 1
    assert condition.counts[tally.OTHERS] > 400
    assert len(condition.bursts) <= tally.MOST_KEYS
    assert max(map(len, condition.bursts.values())) <= tally.MOST_BURSTS


def test_two_findings_of_one_key_in_a_reading_are_one() -> None:
    condition = read(DeviceHealth(), 1.0, finding(Health.DEGRADED), finding(), finding())
    assert [one.finding.severity for one in condition.open] == [Health.FAILED]


def test_the_document_shows_the_table_of_endings() -> None:
    """`MUAI_TEST_UPDATE_DOCS=1` writes it anew."""
    document = Path(__file__).parents[2] / "docs" / "health.md"
    before, shown, after = re.split(
        r"(?s)(?<=<!-- endings: written by tests/control/test_health.py -->\n)(.*)"
        r"(?=<!-- end of endings -->)",
        document.read_text(),
    )
    table = _table_of_endings()
    if os.environ.get("MUAI_TEST_UPDATE_DOCS"):
        document.write_text(before + table + after)
        return
    assert shown == table


def _table_of_endings() -> str:
    columns = {
        Ending.ABSENT: "the first reading without it",
        Ending.CLEAN: "`clean_readings` of them in a row",
        Ending.PASSED: "a self-test that passes",
        Ending.REPAIRED: "the repair is made",
        Ending.REINSTATED: "`muai reinstate`",
    }
    rows = {}
    for (clears, failed), endings in ENDS.items():
        name = f"`{clears}`"
        if failed and endings == ENDS[clears, False]:
            continue
        rows[f"{name}, failed" if failed else name] = endings
    lines = [f"| `clears` | {' | '.join(columns.values())} |", "| --- " * (len(columns) + 1) + "|"]
    for name, endings in rows.items():
        cells = ("yes" if ending in endings else "no" for ending in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_readings_wait_for_a_self_test_that_is_under_way() -> None:
    condition = happened(DeviceHealth(), finding(Health.SUSPECT, "checked"), 1.0)
    test = SelfTestRecord(check=1, asked_at_s=2.0, deadline_at_s=60.0)
    condition = structs.replace(condition, self_test=test)
    for at_s in range(3, 20):
        condition = read(condition, float(at_s))
        assert condition.state is Health.SUSPECT
    proved_nothing = structs.replace(test, verdict="inconclusive")
    condition = read(structs.replace(condition, self_test=proved_nothing), 20.0)
    assert condition.state is Health.HEALTHY


def test_readings_do_not_refute_a_self_test() -> None:
    """A GPU on which CUDA does not work looks well to NVML."""
    found = finding(Health.SUSPECT, "checked", kind="cuda_error", code=999)
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    gpu = Device(
        uuid="GPU-0",
        node="n1",
        index=0,
        kind="gpu",
        platform="cuda",
        name="GPU",
        memory_total_bytes=80 * 1024**3,
    )

    def look(at_s: float) -> list[CheckDevice]:
        readings = (DeviceReading(uuid="GPU-0"),)
        seen = Inventory(source="s", observed_at_s=at_s, devices=(gpu,), readings=readings)
        actions = plane.step(at_s, [ev.DevicesObserved(inventory=seen)])
        return [action for action in actions if isinstance(action, CheckDevice)]

    look(0.0)
    trouble = finding(Health.SUSPECT, "checked", code=145)
    plane.step(
        1.0, [ev.DeviceFaulted(source="s", uuid="GPU-0", observed_at_s=1.0, finding=trouble)]
    )
    (first,) = look(2.0)
    plane.step(3.0, [ev.DeviceChecked(uuid="GPU-0", check=first.check, finding=found)])
    for at_s in range(4, 60):
        assert look(float(at_s)) == []
        assert plane.state.devices["GPU-0"].health is Health.SUSPECT
    (second,) = look(3.0 + SETTINGS.self_test_retry_s)
    plane.step(100.0, [ev.DeviceChecked(uuid="GPU-0", check=second.check, detail="fine")])
    assert plane.state.devices["GPU-0"].health is Health.HEALTHY
