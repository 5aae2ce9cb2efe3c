"""A GPU that does not answer, a probe that dies: the others' samples stay fresh, nothing is left.

The clock is the machine's own; every wait is for a condition, with a generous deadline.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_nvml import FakeNvml
from muai_nvml.source import ProbeFailed
from muai_nvml.watch import ROUND_LIMIT_S
from nvml_observing import (
    WAIT_S,
    Make,
    Open,
    Told,
    is_probe,
    kinds,
    observe,
    observe_until,
    probe_pids,
    readings,
)

from muai_core.model.health import Health


class TestHang:
    def test_the_others_stay_fresh(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        told = Told()
        source = open_nvml_source(fake_nvml, told)
        healthy = readings(source)
        assert all(not reading.findings for reading in healthy)
        fake_nvml.hang(3, 60)
        deadline_s = time.monotonic() + 5
        oldest_s = 0.0
        while time.monotonic() < deadline_s:
            asked_at_s = time.monotonic()
            found = source.observe(asked_at_s)
            assert time.monotonic() - asked_at_s < 4.0
            for number, reading in enumerate(found.readings):
                if number != 3:
                    assert reading.findings == ()
                    age_s = asked_at_s - (reading.sampled_at_s or asked_at_s)
                    oldest_s = max(oldest_s, age_s)
            stuck = found.readings[3]
            assert stuck.memory_used_bytes == healthy[3].memory_used_bytes
            assert stuck.sampled_at_s is not None
            time.sleep(0.1)
        assert oldest_s <= 2.0
        assert kinds(found.readings[3]) == ["unresponsive"]
        first = told.wait(lambda happening: happening.finding.kind == "unresponsive")[0]
        assert first.uuid == fake_nvml.uuid(3)
        assert first.finding.severity is Health.SUSPECT
        assert "nvml" in first.finding.reason

    def test_it_is_failed_after_some_misses_and_comes_back(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=3)
        told = Told()
        source = open_nvml_source(fake, told, deadline_s=0.5, misses_until_failed=2)
        observe(source)
        fake.hang(1, 60)
        observe(source)
        told.wait(lambda happening: happening.finding.severity is Health.FAILED)
        found = observe(source).readings[1].findings
        assert [(f.kind, f.severity, f.recovery) for f in found] == [
            ("unresponsive", Health.FAILED, "reboot")
        ]
        fake.heal()
        back = observe_until(source, lambda found: not found.readings[1].findings)
        assert back.readings[1].memory_used_bytes is not None
        # It is taken back by one probe for all.
        observe_until(source, lambda found: len(probe_pids()) == 1)
        assert all(reading.sampled_at_s is None for reading in readings(source))

    def test_several_hang_at_once(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        source = open_nvml_source(fake_nvml, deadline_s=0.5)
        observe(source)
        for number in (0, 3, 7):
            fake_nvml.hang(number, 60)
        observe_until(
            source,
            lambda found: (
                [bool(r.findings) for r in found.readings]
                == [True, False, False, True, False, False, False, True]
            ),
        )
        fresh = readings(source)
        assert [r.sampled_at_s is None for r in fresh] == [not r.findings for r in fresh]
        fake_nvml.heal()
        observe_until(source, lambda found: not any(r.findings for r in found.readings))

    def test_all_hang(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        fake = make_fake_nvml(gpus=2)
        source = open_nvml_source(fake, deadline_s=0.5)
        observe(source)
        fake.hang("*", 60)
        found = observe_until(source, lambda found: all(r.findings for r in found.readings))
        assert {kind for reading in found.readings for kind in kinds(reading)} == {"unresponsive"}
        fake.heal()
        observe_until(source, lambda found: not any(r.findings for r in found.readings))

    def test_from_the_start(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        fake = make_fake_nvml(gpus=3)
        fake.hang(1, 60)
        source = open_nvml_source(fake, deadline_s=0.5)
        found = observe(source)
        assert [d.uuid for d in found.devices if "unknown" not in d.uuid] == [
            fake.uuid(0),
            fake.uuid(2),
        ]
        assert [reading.memory_used_bytes is not None for reading in found.readings].count(
            True
        ) == 2
        assert {r.uuid: kinds(r) for r in found.readings if r.findings} in (
            {"GPU-unknown-1": ["no_answer_yet"]},
            {"GPU-unknown-1": ["unresponsive"]},
        )
        observe_until(
            source, lambda found: any(kinds(r) == ["unresponsive"] for r in found.readings)
        )
        fake.heal()
        found = observe_until(source, lambda found: fake.uuid(1) in {d.uuid for d in found.devices})
        assert [device.uuid for device in found.devices] == [fake.uuid(n) for n in range(3)]

    def test_one_that_is_only_slow_is_not_accused(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        told = Told()
        source = open_nvml_source(fake, told)
        observe(source)
        fake.hang(0, 0.8, "nvmlDeviceGetMemoryInfo")
        for _ in range(4):
            assert all(not reading.findings for reading in readings(source))
        assert told.happenings == []

    def test_the_count_hangs(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        fake = make_fake_nvml(gpus=2)
        source = open_nvml_source(fake, deadline_s=0.5)
        observe(source)
        fake.hang(None, 60, "nvmlDeviceGetCount")
        for _ in range(5):
            assert all(not reading.findings for reading in readings(source))
        fake.heal()
        observe_until(source, lambda found: all(r.sampled_at_s is None for r in found.readings))

    def test_the_start_of_nvml_hangs(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        fake = make_fake_nvml(gpus=2)
        fake.hang(None, 60, "nvmlInit")
        source = open_nvml_source(fake)
        found = observe(source)
        assert found.fault is not None
        assert found.fault.kind == "nvml_unresponsive"
        again_at_s = time.monotonic()
        assert observe(source).fault == found.fault
        assert time.monotonic() - again_at_s < ROUND_LIMIT_S / 2
        fake.heal()
        observe_until(source, lambda found: len(found.devices) == 2 and found.fault is None)


class TestProbe:
    def test_killed_between_rounds(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        source = open_nvml_source(make_fake_nvml(gpus=2))
        observe(source)
        (pid,) = probe_pids()
        os.kill(pid, signal.SIGKILL)
        found = observe_until(
            source, lambda found: all(r.sampled_at_s is None for r in found.readings)
        )
        assert found.fault is None
        assert probe_pids() != [pid]

    def test_stopped(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        source = open_nvml_source(make_fake_nvml(gpus=2), deadline_s=0.5)
        observe(source)
        (pid,) = probe_pids()
        os.kill(pid, signal.SIGSTOP)
        found = readings(source)
        assert all(reading.sampled_at_s is None and not reading.findings for reading in found)
        assert pid not in probe_pids()

    def test_that_talks_nonsense_fails_the_observation(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        nonsense = (
            "import sys, time; sys.stdout.write('hello' * 9); sys.stdout.flush(); time.sleep(60)"
        )
        source = open_nvml_source(make_fake_nvml(gpus=1), command=(sys.executable, "-c", nonsense))
        with pytest.raises(ProbeFailed, match="a frame of"):
            observe(source)

    def test_that_never_starts_fails_the_observation_in_its_own_words(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        source = open_nvml_source(
            make_fake_nvml(gpus=1), command=(sys.executable, "-c", "raise SystemExit('no msgspec')")
        )
        with pytest.raises(ProbeFailed, match="no msgspec"):
            observe(source)

    def test_is_gone_after_close(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        source = open_nvml_source(fake_nvml, deadline_s=0.5)
        observe(source)
        fake_nvml.hang(2, 60)
        observe_until(source, lambda found: bool(found.readings[2].findings))
        assert probe_pids()
        source.close()
        assert probe_pids() == []

    def test_dies_with_its_controller(self, make_fake_nvml: Make, tmp_path: Path) -> None:
        fake = make_fake_nvml(gpus=1)
        program = (
            "import os, signal, time\n"
            "from muai_nvml.source import NvmlSource\n"
            "source = NvmlSource(); source.open({}); source.observe(time.monotonic())\n"
            "from pathlib import Path\n"
            "tasks = Path(f'/proc/{os.getpid()}/task').glob('*/children')\n"
            "print(' '.join(path.read_text() for path in tasks), flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=fake.env(), capture_output=True, text=True
        )
        pids = [int(pid) for pid in done.stdout.split()]
        assert pids, done.stderr
        give_up_at_s = time.monotonic() + WAIT_S
        while any(map(is_probe, pids)):
            assert time.monotonic() < give_up_at_s
            time.sleep(0.02)
