"""Which devices are put to the test, and what the outcome means.

A self-test costs a process, some memory and a while on the device, so it is asked for only where it
can decide something: on a device that is suspect or failed for a reason that a self-test can clear,
and, if the config says so, on one that is idle. It is looked at when the device's inventory comes,
after new replicas have found their places.
"""

from msgspec import structs

from muai_core.control import health
from muai_core.control.actions import CheckDevice
from muai_core.control.events import DeviceChecked
from muai_core.control.fleet import allocatable_bytes
from muai_core.control.state import (
    DeviceHealth,
    DeviceRecord,
    HealthSettings,
    SelfTestRecord,
    State,
)
from muai_core.control.turn import Turn
from muai_core.model.health import Finding


def may_be_due(state: State, record: DeviceRecord) -> bool:
    """A quick look whether it is worth a second one."""
    test = record.condition.self_test
    if test is not None and test.verdict is None:
        return True
    return bool(record.condition.open) or state.settings.health.self_test == "idle"


def order(turn: Turn) -> None:
    """Ask for the self-tests that are due, of the devices whose inventory came in this step."""
    for uuid in turn.to_check:
        record = turn.state.devices.get(uuid)
        if record is not None and record.present and record.device.kind == "gpu":
            _consider(turn, record)
    turn.to_check = {}


def _consider(turn: Turn, record: DeviceRecord) -> None:
    state, settings = turn.state, turn.state.settings.health
    condition = record.condition
    test = condition.self_test
    if test is not None and test.verdict is None:
        if state.now_s < test.deadline_at_s:
            return
        condition = _ended(condition, "inconclusive", "no outcome in time", state.now_s)
        record = state.devices[record.device.uuid] = structs.replace(record, condition=condition)
    free_bytes = free_for_test_bytes(state, record)
    if state.shutting_down or free_bytes < settings.self_test_memory_bytes:
        return
    idle = not state.ledger.on(record.device.uuid)
    if not _due(condition, settings, state.now_s, idle=idle):
        return
    check = 1 if test is None else test.check + 1
    asked = SelfTestRecord(
        check=check,
        asked_at_s=state.now_s,
        deadline_at_s=state.now_s + settings.self_test_deadline_s,
    )
    condition = structs.replace(condition, self_test=asked)
    state.devices[record.device.uuid] = structs.replace(record, condition=condition)
    turn.actions.append(
        CheckDevice(
            device=record.device,
            source=record.source,
            check=check,
            deadline_at_s=asked.deadline_at_s,
            memory_free_bytes=free_bytes,
        )
    )


def _due(condition: DeviceHealth, settings: HealthSettings, now_s: float, *, idle: bool) -> bool:
    if settings.self_test == "off" or health.swallows_processes(condition):
        return False
    test = condition.self_test
    if health.can_be_cleared(condition):
        proved_nothing = test is not None and test.verdict == "inconclusive"
        pause_s = settings.self_test_interval_s if proved_nothing else settings.self_test_retry_s
    elif settings.self_test == "idle" and idle:
        pause_s = settings.self_test_interval_s
    else:
        return False
    return test is None or test.ended_at_s is None or now_s >= test.ended_at_s + pause_s


def free_for_test_bytes(state: State, record: DeviceRecord) -> int:
    """What a self-test may take: neither claimed nor in use."""
    uuid = record.device.uuid
    unclaimed_bytes = allocatable_bytes(state, record) - state.ledger.claimed_bytes(uuid)
    unused_bytes = record.reading.memory_free_bytes
    return max(0, unclaimed_bytes if unused_bytes is None else min(unclaimed_bytes, unused_bytes))


def concluded(
    condition: DeviceHealth, event: DeviceChecked, now_s: float, settings: HealthSettings
) -> tuple[DeviceHealth, str | None]:
    """After the self-test under way has ended so. Also returns in words what is over, if any."""
    if event.finding is not None:
        condition = _ended(condition, "failed", event.detail, now_s)
        return health.happened(condition, _latched(event.finding), now_s, now_s, settings), None
    if event.inconclusive is not None:
        return _ended(condition, "inconclusive", event.inconclusive, now_s), None
    condition = _ended(condition, "passed", event.detail, now_s)
    after, ending = health.passed(condition, event.check, now_s)
    open_keys = {one.finding.key for one in after.open}
    after = health.forgiven(after, (k for k in after.bursts if k not in open_keys))
    return after, None if ending is None else ending.value


def _latched(finding: Finding) -> Finding:
    """What a self-test has found, no reading can refute."""
    if finding.clears == "repaired":
        return finding
    return structs.replace(finding, clears="tested")


def _ended(condition: DeviceHealth, verdict: str, detail: str, now_s: float) -> DeviceHealth:
    assert condition.self_test is not None
    test = structs.replace(condition.self_test, ended_at_s=now_s, verdict=verdict, detail=detail)
    return structs.replace(condition, self_test=test)
