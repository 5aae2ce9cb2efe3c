"""Self-tests of devices: what counts, what proves nothing, and that nothing is left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from replica_programs import DEADLINE_S, is_alive, until

from muai_core.control.actions import CheckDevice
from muai_core.control.events import DeviceChecked, Event
from muai_core.model.device import Device, Inventory
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import DeviceSource, SelfTest, SelfTestResult
from muai_core.runtime.orphans import Marker, reclaim_orphans
from muai_core.runtime.process import Exit, Release, ReplicaProcess
from muai_core.runtime.self_tests import NothingProven, SelfTests, read_result

GIB = 2**30
FINDING = Finding(
    kind="self_test", code=719, severity=Health.FAILED, recovery="reset", reason="it broke"
)


def gpu(uuid: str = "GPU-a", platform: Any = "cuda") -> Device:
    return Device(
        uuid=uuid,
        node="box",
        index=0,
        kind="gpu",
        platform=platform,
        name="GPU",
        memory_total_bytes=80 * GIB,
    )


class Source(DeviceSource):
    """Answers with whatever a test gives it."""

    name = "fake"

    def __init__(self, answer: Callable[[Device], object]) -> None:
        self.answer = answer

    def observe(self, now_s: float) -> Inventory:
        return Inventory(source=self.name, observed_at_s=now_s, devices=())

    def self_test(self, device: Device) -> SelfTest | None:
        return self.answer(device)  # type: ignore[return-value]


class Bench:
    """Self-tests that are small Python programs, and what was told about them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[DeviceChecked] = []
        self.source = Source(lambda device: None)
        self.tests = SelfTests({"fake": self.source}, "box", self._emit, time.monotonic)

    def _emit(self, event: Event) -> None:
        assert isinstance(event, DeviceChecked)
        self.told.append(event)

    def program(self, source: str, **changes: Any) -> SelfTest:
        path = self.directory / f"self_test_{len(list(self.directory.iterdir()))}.py"
        path.write_text(textwrap.dedent(source))
        settings = {"argv": (sys.executable, str(path)), "timeout_s": DEADLINE_S, "memory_bytes": 0}
        return SelfTest(**{**settings, **changes})

    def start(self, check: int = 1, uuid: str = "GPU-a", **changes: Any) -> None:
        settings = {
            "device": gpu(uuid),
            "source": "fake",
            "check": check,
            "deadline_at_s": time.monotonic() + DEADLINE_S,
            "memory_free_bytes": GIB,
        }
        self.tests.start(CheckDevice(**{**settings, **changes}))

    async def checked(self, answer: object, **changes: Any) -> DeviceChecked:
        """The one thing that is told about a self-test which the source describes so."""

        def describe(device: Device) -> object:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        self.source.answer = describe
        before = len(self.told)
        self.start(check=before + 1, **changes)
        await until(lambda: len(self.told) > before)
        (told,) = self.told[before:]
        assert told.check == before + 1
        return told

    async def unproven(self, answer: object, **changes: Any) -> str:
        told = await self.checked(answer, **changes)
        assert told.finding is None
        assert told.inconclusive
        return told.inconclusive

    def printing(self, *texts: object, then: str = "") -> SelfTest:
        rows = [f"print({msgspec.json.encode(text).decode()!r})" for text in texts]
        return self.program("\n".join([*rows, then]))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    assert await bench.tests.close() == ()


# What counts


async def test_a_passed_test_has_neither_a_finding_nor_an_excuse(bench: Bench) -> None:
    told = await bench.checked(bench.printing(SelfTestResult(detail="all\n\u2028is\x85well")))
    assert told == DeviceChecked(uuid="GPU-a", check=1, detail="all is well")


async def test_a_finding_is_told_even_when_the_process_dies_of_it(bench: Bench) -> None:
    broken = bench.printing(SelfTestResult(finding=FINDING), then="raise SystemExit(3)")
    told = await bench.checked(broken)
    assert (told.finding, told.inconclusive) == (FINDING, None)


async def test_an_excuse_is_told_as_it_is(bench: Bench) -> None:
    excuse = bench.printing("noise", SelfTestResult(inconclusive="no memory"))
    assert await bench.unproven(excuse) == "no memory"


async def test_only_the_last_line_of_stdout_counts(bench: Bench) -> None:
    told = await bench.checked(
        bench.program(
            """
            import sys
            print('{"inconclusive": "not yet"}')
            print('{"detail": "done"}')
            print("noise after the result", file=sys.stderr, flush=True)
            """
        )
    )
    assert told == DeviceChecked(uuid="GPU-a", check=1, detail="done")


async def test_it_sees_what_an_engine_on_the_device_would_see(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("NVIDIA_THING", "inherited")
    spec = bench.program(
        """
        import json, os, sys
        names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SECRET", "NVIDIA_THING", "OWN")
        seen = [os.environ.get(name) for name in names]
        alone = os.getsid(0) == os.getpid() == os.getpgid(0)
        files = sorted(os.listdir("/proc/self/fd"), key=int)[:-1]
        words = [*seen, alone, sys.stdin.read(), files, os.environ["MUAI_REPLICA"]]
        print(json.dumps({"detail": json.dumps(words)}))
        """,
        env={"OWN": "yes"},
    )
    told = await bench.checked(spec)
    assert told.inconclusive is None
    seen = ["GPU-a", "PCI_BUS_ID", None, "inherited", "yes"]
    marker = Marker("box", "self-test/GPU-a", 1)
    assert msgspec.json.decode(told.detail) == [*seen, True, "", ["0", "1", "2"], marker.text]
    assert Marker.parse(marker.text) == marker


async def test_tests_of_several_devices_run_side_by_side(bench: Bench) -> None:
    # Each waits for the other: they end only when they run at the same time.
    meet = bench.program(
        """
        import os, pathlib, time
        here = pathlib.Path(__file__).parent
        mine = os.environ["CUDA_VISIBLE_DEVICES"]
        (here / f"{mine}.here").touch()
        while len(list(here.glob("*.here"))) < 2:
            time.sleep(0.01)
        print('{}')
        """
    )
    bench.source.answer = lambda device: meet
    bench.start(uuid="GPU-a")
    bench.start(uuid="GPU-b")
    await until(lambda: len(bench.told) == 2)
    assert {told.uuid for told in bench.told} == {"GPU-a", "GPU-b"}
    assert all(told.inconclusive is None for told in bench.told)


async def test_ordering_it_twice_runs_it_once(bench: Bench) -> None:
    log = bench.directory / "runs"
    spec = bench.program(f"open({str(log)!r}, 'a').write('run '); print('{{}}')")
    bench.source.answer = lambda device: spec
    deadline_at_s = time.monotonic() + DEADLINE_S
    bench.start(deadline_at_s=deadline_at_s)
    bench.start(deadline_at_s=deadline_at_s)
    await until(lambda: bool(bench.told))
    assert await bench.tests.close() == ()
    assert log.read_text() == "run "
    assert len(bench.told) == 1


# What proves nothing


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "it exited with status 0 and printed no result: without a word"),
        ("import sys; sys.exit('no driver')", "exited with status 1 and printed no result: no dri"),
        ("import os; os.abort()", "it was killed by SIGABRT and printed no result"),
        ("print('passed')", "its last line is not a result (JSON is malformed"),
        ("print('{}'); print('[]')", "its last line is not a result (Expected `object`"),
        ("print('{}'); print('7' * 10**5)", "its last line is not a result ("),
        ("print('{\"passed\": true}')", "is not a result (Object contains unknown field `passed`)"),
        ("print('{\"finding\": {}}')", "missing required field"),
        ("print('{\"detail\": 7}')", "Expected `str`, got `int`"),
        ("print('{}'); exit(4)", "it says that it passed, but exited with status 4"),
        ("print('{}', flush=True); import os; os.kill(os.getpid(), 11)", "but was killed by"),
        ("import os; os.write(1, b'\\xff\\xfe{}')", "its last line is not a result"),
    ],
)
async def test_anything_but_a_result_proves_nothing(bench: Bench, source: str, reason: str) -> None:
    assert reason in await bench.unproven(bench.program(source))


NESTED = '{"finding": {"x": ' + "[" * 200_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("finding"), inner),
)


@example(NESTED)
@given(st.text() | JSON.map(json.dumps))
def test_no_text_passes_by_accident(text: str) -> None:
    try:
        result = read_result(text, "", Exit(status=0))
    except NothingProven:
        return
    said = json.loads(text.strip().split("\n")[-1])
    assert set(said) <= {"finding", "inconclusive", "detail"}
    assert (result.finding is None) == (said.get("finding") is None)


async def test_a_finding_and_an_excuse_at_once_prove_nothing(bench: Bench) -> None:
    both = bench.printing(SelfTestResult(finding=FINDING, inconclusive="no memory"))
    assert "calls itself inconclusive" in await bench.unproven(both)


async def test_an_endless_test_is_killed_with_all_its_processes(bench: Bench) -> None:
    pids = bench.directory / "pids"
    endless = bench.program(
        f"""
        import os, subprocess, sys, time, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                                 start_new_session=True)
        open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}\\n")
        print('{{}}', flush=True)
        time.sleep(600)
        """,
        timeout_s=3.0,
    )
    reason = await bench.unproven(endless)
    assert reason.startswith("it was not done after 3 s and was killed; ")
    assert not any(is_alive(int(pid)) for pid in pids.read_text().split())


async def test_the_deadline_of_the_order_counts_when_it_is_sooner(bench: Bench) -> None:
    endless = bench.program("import time; time.sleep(600)")
    reason = await bench.unproven(endless, deadline_at_s=time.monotonic() + 2.0)
    assert "and was killed" in reason
    late = await bench.unproven(endless, deadline_at_s=time.monotonic() - 1)
    assert late == "its deadline had passed before it could begin"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_endless_output_is_cut_off(bench: Bench, stream: str) -> None:
    loud = bench.program(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)")
    assert await bench.unproven(loud) == "it printed more than 1 MiB and was killed"


async def test_a_child_that_keeps_the_output_open_does_not_hold_up_the_result(
    bench: Bench,
) -> None:
    told = await bench.checked(
        bench.program(
            """
            import subprocess, sys
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print('{"detail": "%d"}' % child.pid)
            """
        )
    )
    assert told.inconclusive is None
    assert not is_alive(int(told.detail))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "device source fake has no self-test for this device"),
        (RuntimeError("driver\nsick"), "could not say how to test it: RuntimeError: driver sick"),
        (SystemExit(1), "could not say how to test it: RuntimeError: SystemExit: 1"),
        ("a string", "TypeError: self_test() returned str, not SelfTest"),
        (SelfTest(argv=(), memory_bytes=0), "the command is empty"),
        (SelfTest(argv=("/nowhere/x",), memory_bytes=0), "cannot run /nowhere/x: No such file"),
        (SelfTest(argv=(7,), memory_bytes=0), "ValidationError: Expected `str`"),  # type: ignore[arg-type]
        (SelfTest(argv=("x",), memory_bytes=0, timeout_s=0), "must be more than 0"),
        (SelfTest(argv=("x",), memory_bytes=0, timeout_s=float("nan")), "must be more than 0"),
        (SelfTest(argv=("x",), memory_bytes=0, env={"A=B": ""}), "environment variable"),
        (
            SelfTest(argv=("x",), memory_bytes=2 * GIB),
            "it takes 2.00 GiB of the device's memory, 1.00 GiB are free",
        ),
    ],
)
async def test_what_cannot_be_run_proves_nothing(bench: Bench, answer: object, reason: str) -> None:
    assert reason in await bench.unproven(answer)


async def test_an_unknown_source_proves_nothing(bench: Bench) -> None:
    reason = await bench.unproven(bench.printing({}), source="gone")
    assert reason == "there is no device source 'gone'"


async def test_a_source_that_does_not_answer_delays_no_other_device(bench: Bench) -> None:
    release = threading.Event()
    spec = bench.printing({})

    def answer(device: Device) -> SelfTest:
        if device.uuid == "GPU-stuck":
            release.wait()
        return spec

    try:
        bench.source.answer = answer
        bench.start(uuid="GPU-stuck", deadline_at_s=time.monotonic() + 1.0)
        bench.start(uuid="GPU-well")
        await until(lambda: len(bench.told) == 2)
        well = next(told for told in bench.told if told.uuid == "GPU-well")
        stuck = next(told for told in bench.told if told.uuid == "GPU-stuck")
        assert well.inconclusive is None
        assert "device source fake did not say within 1 s how to test it" in str(stuck.inconclusive)
        # Asking again would only leave another thread behind.
        bench.start(check=2, uuid="GPU-stuck")
        await until(lambda: len(bench.told) == 3)
        assert "still owes an answer" in str(bench.told[2].inconclusive)
        release.set()
        await until(lambda: not bench.tests._unanswered)
        bench.start(check=3, uuid="GPU-stuck")
        await until(lambda: len(bench.told) == 4)
        assert bench.told[3].inconclusive is None
    finally:
        release.set()


async def test_what_it_says_is_fit_to_be_shown(bench: Bench) -> None:
    loud = Finding(
        kind="k" * 1000, severity=Health.SUSPECT, reason="a\x1b\nb" * 1000, advice="\n" * 9
    )
    told = await bench.checked(bench.printing(SelfTestResult(finding=loud, detail="d" * 9999)))
    assert told.finding is not None
    assert len(told.finding.kind) == 100
    assert len(told.finding.reason) == len(told.detail) == 500
    assert "\n" not in told.finding.reason
    assert told.finding.advice == ""


# The end


async def test_a_process_that_does_not_die_is_told_and_reaped_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, stuck = ReplicaProcess.stop, Release(proven=False, survivors=("pid 7 (in D)",))
    refusing = [True]

    async def stop(process: ReplicaProcess, **options: Any) -> Release:
        release = await real(process, **options)
        return stuck if refusing else release

    monkeypatch.setattr(ReplicaProcess, "stop", stop)
    monkeypatch.setattr("muai_core.runtime.self_tests._FIRST_REAP_S", 0.01)
    hanging = bench.program("import time; time.sleep(600)", timeout_s=0.5)
    assert await bench.unproven(hanging) == "its process does not die: pid 7 (in D)"
    again = await bench.unproven(bench.printing({}))
    assert again == "an earlier self-test of this device does not die: pid 7 (in D)"
    assert "the self-test of GPU-a does not die: pid 7 (in D)" in caplog.text
    refusing.clear()
    await until(lambda: not bench.tests._undead)
    assert (await bench.checked(bench.printing({}))).inconclusive is None


async def test_closing_kills_what_runs_and_still_tells_one_outcome(bench: Bench) -> None:
    pid_file = bench.directory / "pid"
    spec = bench.program(
        f"""
        import os, time
        open({str(pid_file)!r}, "w").write(f"{{os.getpid()}}\\n")
        time.sleep(600)
        """
    )
    bench.source.answer = lambda device: spec
    bench.start()
    await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    assert await bench.tests.close() == ()
    assert not is_alive(int(pid_file.read_text()))
    bench.start(check=2)
    ended = "the controller is ending"
    assert [(told.check, told.inconclusive) for told in bench.told] == [(1, ended), (2, ended)]


CONTROLLER = """
import asyncio, sys, time
sys.path.insert(0, {tests!r})
from test_device_self_tests import Bench
from pathlib import Path

async def main():
    bench = Bench(Path({directory!r}))
    spec = bench.program({program!r})
    bench.source.answer = lambda device: spec
    bench.start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_it_dies_with_a_controller_that_is_killed_and_orphans_are_reclaimed(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    program = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}\\n")
time.sleep(600)
"""
    (tmp_path / "programs").mkdir()
    source = CONTROLLER.format(
        tests=str(Path(__file__).parent), directory=str(tmp_path / "programs"), program=program
    )
    controller = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-c", source])
    try:
        await until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    finally:
        os.kill(controller.pid, signal.SIGKILL)
        await asyncio.to_thread(controller.wait)
    leader, child = map(int, pids.read_text().split())
    await until(lambda: not is_alive(leader))
    (orphan,) = await asyncio.to_thread(reclaim_orphans, tmp_path / "state", "box")
    assert (orphan.replica_id, orphan.killed_pids) == ("self-test/GPU-a", (child,))
    assert not is_alive(child)
