"""The launcher's own logic, with programs of a few lines in place of ranks: how they end together.

What real ranks do when one is lost is in test_deepspeed_faults.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from muai_deepspeed.exits import failure_of

from muai_core import ExitEvidence

pytestmark = pytest.mark.alone

DEADLINE_S = 60

#: Replaces the worker; what each rank does is in the environment, `serve` where nothing is said.
RANK = """
import json, os, signal, sys, time
from pathlib import Path

rank = sys.argv[sys.argv.index("--rank") + 1]
folder, deeds = Path(os.environ["FOLDER"]), json.loads(os.environ["DEEDS"])
told, stops = folder / f"told-{rank}", {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, stops)
(folder / f"new-{rank}").write_text(str(os.getpid()))
(folder / f"new-{rank}").rename(folder / f"pid-{rank}")
deed, *more = deeds.get(rank, "serve").split()
if deed == "end":
    os._exit(int(more[0]))
if deed == "crash":
    os.kill(os.getpid(), int(more[0]))
seen = []
while deed == "ignore" or not seen:
    seen.append(signal.sigwait(stops).name)
    told.write_text(" ".join(seen))
if deed == "patient":  # a second word hurries it
    seen.append(signal.sigwait(stops).name)
if deed == "count" and (late := signal.sigtimedwait(stops, 0.3)) is not None:
    seen.append(signal.Signals(late.si_signo).name)
told.write_text(" ".join(seen))
"""
LAUNCHER = """
import sys
from muai_deepspeed import launcher

launcher.WORKER = ("-I", "-S", sys.argv[1])
launcher.STOP_GRACE_S = launcher.FOLLOWERS_GRACE_S = 0.5
sys.exit(launcher.main(sys.argv[2:]))
"""


class Launched:
    """A launcher and the programs that it takes for ranks."""

    def __init__(self, folder: Path, shards: int, stages: int, deeds: dict[str, str]) -> None:
        self.folder, self.world = folder, shards * stages
        program, self.log = folder / "rank.py", folder / "log"
        program.write_text(RANK)
        arguments = [str(program), "--model", "none", "--port", "1"]
        arguments += ["--tensor-parallel-size", str(shards)]
        arguments += ["--pipeline-parallel-size", str(stages)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", LAUNCHER, *arguments],
                env={**os.environ, "FOLDER": str(folder), "DEEDS": json.dumps(deeds)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def pid(self, rank: int) -> int:
        return int((self.folder / f"pid-{rank}").read_text())

    def told(self, rank: int) -> str:
        path = self.folder / f"told-{rank}"
        return path.read_text() if path.exists() else ""

    def wait_started(self) -> None:
        paths = [self.folder / f"pid-{rank}" for rank in range(self.world)]
        wait_until(lambda: all(path.exists() for path in paths), self.log)

    def wait_ended(self) -> tuple[int, str]:
        """Exit status and log; all ranks are gone then."""
        status = self.process.wait(DEADLINE_S)
        started = [int(path.read_text()) for path in self.folder.glob("pid-*")]
        assert not [pid for pid in started if lives(pid)]
        return status, self.log.read_text()


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], log: Path) -> None:
    give_up_at_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up_at_s, log.read_text()
        time.sleep(0.01)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    launched: list[Launched] = []

    def start(shards: int, stages: int, **deeds: str) -> Launched:
        named = {rank.removeprefix("rank"): deed for rank, deed in deeds.items()}
        launched.append(Launched(tmp_path, shards, stages, named))
        return launched[-1]

    yield start
    for one in launched:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--layers", "3,x"],
        ["--layers", "3,0"],
        ["--tensor-parallel-size", "0"],
        ["--max-num-seqs", "-1"],
        ["--port", "65536"],
        ["--rank-timeout-s", "nan"],
        ["--rank-timeout-s", "0"],
        ["--dtype", "int4"],
        ["--frobnicate", "1"],
    ],
)
def test_wrong_arguments_end_before_any_rank_starts(wrong: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "muai_deepspeed.launcher", "--model", "x"]
    done = subprocess.run(
        [*command, "--port", "1", *wrong], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert wrong[0] in done.stderr
    failure = failure_of(ExitEvidence(stage="spawn", status=2, log_tail=done.stderr))
    assert failure is not None
    assert (failure.kind, bool(failure.advice)) == ("bad_argument", True)


def test_a_rank_that_ends_at_once_ends_all_with_its_status(launch: Callable[..., Launched]) -> None:
    status, log = launch(2, 2, rank2="end 7").wait_ended()
    assert status == 7
    assert log == "muai_deepspeed: rank 2 ended with status 7; the others are killed\n"


def test_a_rank_that_ends_unasked_without_fault_is_a_loss_too(
    launch: Callable[..., Launched],
) -> None:
    assert launch(1, 2, rank1="end 0").wait_ended()[0] == 1


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_crash_is_told_by_its_signal(
    number: signal.Signals, launch: Callable[..., Launched]
) -> None:
    status, log = launch(2, 1, rank1=f"crash {int(number)}").wait_ended()
    assert status == 128 + number
    assert f"rank 1 was killed by {number.name}" in log
    failure = failure_of(ExitEvidence(stage="load", status=status, log_tail=log))
    assert failure is not None
    assert (failure.kind, bool(failure.advice)) == ("rank_died", True)


@pytest.mark.parametrize("victim", range(4))
def test_a_killed_rank_takes_all_with_it(victim: int, launch: Callable[..., Launched]) -> None:
    launched = launch(2, 2, **{f"rank{rank}": "ignore" for rank in range(4)})
    launched.wait_started()
    os.kill(launched.pid(victim), signal.SIGKILL)
    status, log = launched.wait_ended()
    assert status == 128 + signal.SIGKILL
    assert f"rank {victim} was killed by SIGKILL" in log


def test_stopped_ranks_are_killed_too(launch: Callable[..., Launched]) -> None:
    launched = launch(1, 2)
    launched.wait_started()
    os.kill(launched.pid(1), signal.SIGSTOP)
    os.kill(launched.pid(0), signal.SIGKILL)
    assert launched.wait_ended()[0] == 128 + signal.SIGKILL


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_rank_0_hears_of_a_stop_once(
    send: Callable[[int, int], None], launch: Callable[..., Launched]
) -> None:
    """Whether the signal goes to the launcher or to its process group, as a supervisor's does."""
    launched = launch(2, 2, rank0="count")
    launched.wait_started()
    send(launched.process.pid, signal.SIGTERM)
    status, log = launched.wait_ended()
    assert (status, launched.told(0)) == (0, "SIGTERM")
    assert "ranks 1, 2, 3" in log  # the fakes do not hear of it from rank 0, as real ones do


def test_a_second_signal_is_handed_on_as_well(launch: Callable[..., Launched]) -> None:
    launched = launch(1, 1, rank0="patient")
    launched.wait_started()
    launched.process.send_signal(signal.SIGINT)
    wait_until(lambda: launched.told(0) == "SIGINT", launched.log)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.wait_ended() == (0, "")
    assert launched.told(0) == "SIGINT SIGTERM"


def test_ranks_that_do_not_listen_to_a_stop_are_killed(launch: Callable[..., Launched]) -> None:
    launched = launch(1, 2, rank0="ignore", rank1="ignore")
    launched.wait_started()
    launched.process.send_signal(signal.SIGTERM)
    status, log = launched.wait_ended()
    assert status == 0
    assert "did not end when told to: ranks 0, 1; they are killed" in log


def test_ranks_die_with_a_launcher_that_is_killed(launch: Callable[..., Launched]) -> None:
    launched = launch(2, 2, **{f"rank{rank}": "ignore" for rank in range(4)})
    launched.wait_started()
    launched.process.kill()
    launched.process.wait()
    pids = [launched.pid(rank) for rank in range(4)]
    wait_until(lambda: not any(lives(pid) for pid in pids), launched.log)


def test_ranks_that_cannot_be_started_are_a_failure_with_a_name(tmp_path: Path) -> None:
    """The machine, or the user, may have no room for another process."""
    code = """
import subprocess, sys
from muai_deepspeed import launcher
started = []
popen = subprocess.Popen
def second_fails(*args, **more):
    if started:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    started.append(popen([sys.executable, "-c", "import time; time.sleep(600)"]))
    return started[0]
subprocess.Popen = second_fails
status = launcher.main(["--model", "x", "--port", "1", "--tensor-parallel-size", "2"])
assert started[0].returncode == -9
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 1
    assert "rank 1 could not be started" in done.stderr
    failure = failure_of(ExitEvidence(stage="spawn", status=1, log_tail=done.stderr))
    assert failure is not None
    assert failure.kind == "out_of_memory_host"
