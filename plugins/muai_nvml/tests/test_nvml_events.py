"""XIDs, ECC errors and the like: told at once, once, and with the right consequence."""

import time
from collections import Counter

import pytest
from fake_nvml import FakeNvml
from nvml_observing import Make, Open, Told, kinds, observe, observe_until, probe_pids

from muai_core.model.health import Health
from muai_core.plugin.device_source import Happening


def is_xid(happening: Happening) -> bool:
    return happening.finding.kind == "xid"


def test_an_xid_is_told_at_once_and_in_words(fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
    told = Told()
    source = open_nvml_source(fake_nvml, told)
    observe(source)
    began_at_s = time.monotonic()
    fake_nvml.xid(3, 79)
    (happening,) = told.wait(is_xid)
    assert time.monotonic() - began_at_s < 5.0
    assert happening.uuid == fake_nvml.uuid(3)
    finding = happening.finding
    assert (finding.code, finding.severity, finding.recovery) == (79, Health.FAILED, "reboot")
    assert finding.reason == "XID 79: fell off the bus"
    assert finding.advice == "reboot the node"


def test_a_burst_is_told_whole_and_in_order(fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
    told = Told()
    observe(open_nvml_source(fake_nvml, told))
    codes = [13, 31, 43, 45, 94] * 40
    with fake_nvml.changes():
        for code in codes:
            fake_nvml.xid(6, code)
    found = told.wait(is_xid, many=len(codes))
    assert [happening.finding.code for happening in found] == codes
    assert {happening.uuid for happening in found} == {fake_nvml.uuid(6)}


def test_of_a_device_that_nobody_knows(fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
    told = Told()
    observe(open_nvml_source(fake_nvml, told))
    fake_nvml.xid(None, 48)
    (happening,) = told.wait(is_xid)
    assert happening.uuid is None


def test_of_a_gpu_that_is_lost_by_the_time_it_is_told(
    fake_nvml: FakeNvml, open_nvml_source: Open
) -> None:
    told = Told()
    source = open_nvml_source(fake_nvml, told)
    observe(source)
    with fake_nvml.changes():
        fake_nvml.lose(2)
        fake_nvml.xid(2, 79)
    assert told.wait(is_xid)[0].uuid == fake_nvml.uuid(2)


@pytest.mark.parametrize(
    ("event", "kind", "severity"),
    [
        ("ecc_double_bit", "ecc_double_bit", Health.FAILED),
        ("ecc_single_bit_storm", "ecc_single_bit_storm", Health.DEGRADED),
        ("dram_retirement", "dram_retirement", Health.DEGRADED),
        ("dram_retirement_failure", "dram_retirement_failure", Health.FAILED),
        ("poison_nonfatal", "poison_contained", Health.HEALTHY),
        ("poison_fatal", "poison_fatal", Health.FAILED),
        ("gpu_unavailable", "gpu_unavailable", Health.FAILED),
    ],
)
def test_other_events(
    event: str, kind: str, severity: Health, make_fake_nvml: Make, open_nvml_source: Open
) -> None:
    fake = make_fake_nvml(gpus=2)
    told = Told()
    fake.set("*", event_types=0xFFFF)
    observe(open_nvml_source(fake, told))
    fake.event(1, event)
    (happening,) = told.wait(lambda happening: happening.finding.kind == kind)
    assert (happening.uuid, happening.finding.severity) == (fake.uuid(1), severity)


def test_a_changed_recovery_action_is_read_at_once(
    make_fake_nvml: Make, open_nvml_source: Open
) -> None:
    fake = make_fake_nvml(gpus=2)
    told = Told()
    source = open_nvml_source(fake, told)
    observe(source)
    with fake.changes():
        fake.set(0, recovery_action=1)
        fake.xid(0, 154)
    (happening,) = told.wait(lambda happening: happening.finding.kind == "recovery_action")
    assert happening.uuid == fake.uuid(0)
    assert (happening.finding.code, happening.finding.recovery) == (1, "reset")
    assert kinds(observe(source).readings[0]) == ["recovery_action"]


def test_the_config_decides_over_the_catalogue(
    make_fake_nvml: Make, open_nvml_source: Open
) -> None:
    fake = make_fake_nvml(gpus=1)
    told = Told()
    observe(open_nvml_source(fake, told, xid_actions={31: "fail_reset", 79: "ignore"}))
    fake.xid(0, 31)
    fake.xid(0, 79)
    severities = [happening.finding.severity for happening in told.wait(is_xid, many=2)]
    assert severities == [Health.FAILED, Health.HEALTHY]


def test_waiting_is_taken_up_again_after_an_error(
    make_fake_nvml: Make, open_nvml_source: Open
) -> None:
    fake = make_fake_nvml(gpus=2)
    told = Told()
    source = open_nvml_source(fake, told)
    observe(source)
    fake.fail(None, "nvmlEventSetWait", 999)
    (broken,) = told.wait(lambda happening: happening.finding.kind == "events_broken")
    assert broken.uuid is None
    assert broken.finding.severity is Health.HEALTHY
    assert not any(reading.findings for reading in observe(source).readings)
    fake.fail(None, "nvmlEventSetWait", 0)
    # What happens before the GPUs are registered again is lost, as with any driver.
    while not any(map(is_xid, told.happenings)):
        fake.xid(1, 43)
        observe(source)
        time.sleep(0.05)
    assert sum(happening.finding.kind == "events_broken" for happening in told.happenings) == 1


def test_each_is_told_once_while_one_probe_follows_another(
    fake_nvml: FakeNvml, open_nvml_source: Open
) -> None:
    told = Told()
    source = open_nvml_source(fake_nvml, told, deadline_s=0.5)
    observe(source)
    fake_nvml.hang(7, 60)
    sent: Counter[int] = Counter()
    give_up_at_s = time.monotonic() + 20

    def settled() -> bool:
        found = observe(source).readings[7]
        return bool(found.findings) and len(probe_pids()) <= 2 and sent.total() > 150

    while not settled() and time.monotonic() < give_up_at_s:
        code = 1000 + sent.total()
        fake_nvml.xid(0, code)
        sent[code] += 1
        time.sleep(0.01)
    found = told.wait(is_xid, many=sent.total())
    assert Counter(happening.finding.code for happening in found) == sent


def test_a_mig_instance_is_named_by_its_events(
    make_fake_nvml: Make, open_nvml_source: Open
) -> None:
    fake = make_fake_nvml(gpus=1)
    uuids = fake.mig(0, 2**34, 2**34)
    told = Told()
    observe(open_nvml_source(fake, told))
    fake.event(0, "xid", 43, (2, 0))
    fake.event(0, "xid", 79)
    found = told.wait(is_xid, many=3)
    assert [(h.uuid, h.finding.code) for h in found] == [
        (uuids[1], 43),
        (uuids[0], 79),
        (uuids[1], 79),
    ]


def test_nobody_waits_for_events_where_nobody_listens(
    make_fake_nvml: Make, open_nvml_source: Open
) -> None:
    fake = make_fake_nvml(gpus=1)
    fake.fail("*", "nvmlDeviceRegisterEvents", 15)
    source = open_nvml_source(fake)
    assert observe_until(source, lambda found: True).readings[0].findings == ()
