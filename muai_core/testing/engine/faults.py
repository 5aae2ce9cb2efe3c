"""Clauses on faults: killed, stopped, starved, without a log, a port or a model.

Each must end, or go on, in a way that tells what happened, and must leave nothing.
"""

import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from msgspec import structs

from muai_core.control import events as ev
from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime.bring_up import LOAD
from muai_core.runtime.process_table import Process, read_process
from muai_core.runtime.replica_life import SERVING
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.engine.aftermath import failure_of, no_remains
from muai_core.testing.engine.bench import PROOF_S, STOPPED_LIMIT_S, Replica, words_of
from muai_core.testing.engine.client import COMPLETIONS, Client
from muai_core.testing.engine.outcomes import Started
from muai_core.testing.engine.remains import Remains
from muai_core.testing.engine.subject import FIRST_BODY, EngineSubject

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_RANK_TRIES = 3
#: On a busy machine, beyond the time for which a process may be stopped.
_STALL_TOLD_S = 8.0
#: More than comes before a signal does.
_LONG_TOKENS = 200
_OUT_OF_MEMORY = ("out_of_memory_host", "out_of_memory_weights", "out_of_memory_kv_cache")


@clause("E58", kind="engine", title="a leader that is killed takes everything with it")
def _(subject: EngineSubject) -> None:
    started = subject.second()
    leader = started.replica.pid
    assert leader is not None
    subject.note(started)
    _kill(subject, started, leader)
    stopped = subject.ended(started)
    no_remains((list(stopped.processes), list(stopped.shared_memory)))


@clause("E59", kind="engine", title="a rank's death is told at once and takes its group down")
def _(subject: EngineSubject) -> None:
    failure: ClauseFailure | None = None
    for _ in range(_RANK_TRIES):
        started = subject.expendable()
        subject.note(started)
        victim = _rank(started)
        took_s = _kill(subject, started, victim)
        group = set(started.remains.members)
        subject.ended(started)
        if left := [pid for pid, ticks in group if _lives(pid, ticks)]:
            raise ClauseFailure(f"rank {victim} is dead, its group lives on: {left}")
        if took_s <= subject.limits.rank_loss_s:
            return
        # On a busy machine half a second is short: look again.
        failure = ClauseFailure(f"the death of a rank is told after {took_s:.2f} s")
    assert failure is not None
    raise failure


def _rank(started: Started) -> int:
    """The process to kill: the last rank, or the leader of an engine without ranks."""
    replica = started.replica
    assert replica.launch is not None
    assert replica.pid is not None
    if replica.launch.rank_processes is None:
        return replica.pid
    pattern = re.compile(replica.launch.rank_processes)
    found = [pid for pid, _ in sorted(started.remains.members) if pattern.search(_command(pid))]
    if not found:
        raise ClauseFailure(f"no process of it matches rank_processes, {pattern.pattern!r}")
    return found[-1]


def _command(pid: int) -> str:
    """The command line, which a process may have replaced by a title."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _lives(pid: int, start_ticks: int) -> bool:
    process: Process | None = read_process(pid)
    return process is not None and process.start_ticks == start_ticks and process.alive


@clause("E60", kind="engine", title="a model that is cut off is a failure with a name")
def _(subject: EngineSubject) -> None:
    source = Path(subject.deployment.source)
    if not source.is_dir() and not source.is_file():
        raise ClauseSkipped(f"the source {subject.deployment.source} is no file")
    broken = _cut_off(source, subject.folder / "cut-off")
    replica, remains = subject.start(subject.with_source(str(broken)))
    _fails(subject, replica, remains, "a model whose weights are cut off", ("model_files",))


def _cut_off(source: Path, copy: Path) -> Path:
    """A copy of a model, half of whose weights are missing."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    files = [path for path in source.iterdir() if path.is_file()] if source.is_dir() else [source]
    weights = [path for path in files if path.suffix in _WEIGHTS]
    if not weights:
        raise ClauseSkipped("the model has no weights that could be cut off")
    for path in files:
        if path not in weights:
            shutil.copy(path, copy)
            continue
        with path.open("rb") as whole:
            (copy / path.name).write_bytes(whole.read(path.stat().st_size // 2))
    return copy if source.is_dir() else copy / source.name


@clause("E61", kind="engine", title="a port that is taken is a failure with a name")
def _(subject: EngineSubject) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        replica, remains = subject.start(port=taken.getsockname()[1])
        _fails(subject, replica, remains, "a start on a taken port", ("port_taken",))


def _fails(
    subject: EngineSubject,
    replica: Replica,
    remains: Remains,
    what: str,
    kinds: tuple[str, ...],
) -> None:
    """Raises ClauseFailure unless the start fails for one of these reasons, in one line."""
    bench = subject.bench()

    async def fail() -> None:
        await bench.until(
            replica, lambda: replica.serves or replica.ended, subject.limits.start_s + PROOF_S
        )
        await bench.stop(replica, 0)

    bench.run(fail())
    remains.sweep(subject.identities())
    if replica.events(ev.ReplicaReady):
        raise ClauseFailure(f"{what} is said to be ready")
    end = replica.ended
    if not isinstance(end, ev.ReplicaStartFailed):
        raise ClauseFailure(f"{what} is not said to have failed")
    failure = failure_of(subject, end, stage=LOAD)
    kind = failure.kind if failure is not None else "unknown"
    if kind not in kinds:
        raise ClauseFailure(f"{what} is called {kind}, not {' or '.join(kinds)}: {words_of(end)}")
    assert failure is not None
    if not failure.reason or "\n" in failure.reason:
        raise ClauseFailure(f"{what} has the reason {failure.reason!r}, not one line")


@clause("E64", kind="engine", title="a process that is stopped is told by name and ends all")
def _(subject: EngineSubject) -> None:
    started = subject.expendable()
    subject.note(started)
    victim = max(pid for pid, _ in started.remains.members)
    group = set(started.remains.members)
    _signalled(subject, started, victim, signal.SIGSTOP, STOPPED_LIMIT_S + _STALL_TOLD_S)
    subject.ended(started)
    if left := [pid for pid, ticks in group if _lives(pid, ticks)]:
        raise ClauseFailure(f"process {victim} was stopped, its group lives on: {left}")
    assert started.replica.ended is not None
    failure = failure_of(subject, started.replica.ended, stage=SERVING)
    if failure is None or failure.kind != "stalled":
        kind = failure.kind if failure is not None else "unknown"
        raise ClauseFailure(f"process {victim} was stopped, and that is called {kind}")


@clause("E65", kind="engine", title="it serves although nothing can be written to its log")
def _(subject: EngineSubject) -> None:
    replica, remains = subject.start(adapt=_with_full_log)
    bench = subject.bench()

    async def serve() -> None:
        await bench.ready(replica, subject.limits.start_s)
        assert replica.launch is not None
        async with Client(replica.launch, timeout_s=subject.limits.answer_s) as client:
            await client.post(COMPLETIONS, FIRST_BODY)
            # What cannot be logged must not hurt either.
            await client.post(COMPLETIONS, b"{")
            await client.complete("Full")

    try:
        bench.run(serve())
    finally:
        bench.run(bench.stop(replica, subject.limits.stop_grace_s))
        remains.sweep(subject.identities())


@clause("E66", kind="engine", title="a model that vanishes while it loads is a failure with a name")
def _(subject: EngineSubject) -> None:
    source = Path(subject.deployment.source)
    if not source.is_dir() and not source.is_file():
        raise ClauseSkipped(f"the source {subject.deployment.source} is no file")
    copy = subject.folder / "vanishing"
    shutil.rmtree(copy, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        copy.mkdir(parents=True)
        shutil.copy(source, copy)

    def vanish(launch: LaunchSpec) -> LaunchSpec:
        shutil.rmtree(copy)
        return launch

    wish = subject.with_source(str(copy if source.is_dir() else copy / source.name))
    replica, remains = subject.start(wish, adapt=vanish)
    _fails(subject, replica, remains, "a model that has vanished", ("model_files",))


@clause("E67", kind="engine", title="a start that runs out of memory is a failure with a name")
def _(subject: EngineSubject) -> None:
    limit_bytes = subject.limits.starved_bytes
    replica, remains = subject.start(adapt=lambda launch: _starved(launch, limit_bytes))
    what = f"a start with {limit_bytes} bytes of address space"
    try:
        _fails(subject, replica, remains, what, _OUT_OF_MEMORY)
    except ClauseFailure:
        if replica.events(ev.ReplicaReady):
            raise ClauseSkipped(f"it needs less than {limit_bytes} bytes") from None
        raise


def _with_full_log(launch: LaunchSpec) -> LaunchSpec:
    code = "import os, sys; full = os.open('/dev/full', os.O_WRONLY); "
    code += "os.dup2(full, 1); os.dup2(full, 2); os.execv(sys.argv[1], sys.argv[1:])"
    return _run_by(code, launch)


def _starved(launch: LaunchSpec, limit_bytes: int) -> LaunchSpec:
    code = "import os, resource, sys; "
    code += f"resource.setrlimit(resource.RLIMIT_AS, ({limit_bytes}, {limit_bytes})); "
    code += "os.execv(sys.argv[1], sys.argv[1:])"
    return _run_by(code, launch)


def _run_by(code: str, launch: LaunchSpec) -> LaunchSpec:
    """The same process, after this code."""
    program = shutil.which(launch.argv[0]) or launch.argv[0]
    argv = (sys.executable, "-I", "-S", "-c", code, program, *launch.argv[1:])
    return structs.replace(launch, argv=argv)


def _kill(subject: EngineSubject, started: Started, pid: int) -> float:
    """Seconds from SIGKILL in mid-generation until the replica's end is told."""
    return _signalled(subject, started, pid, signal.SIGKILL, PROOF_S)


def _signalled(
    subject: EngineSubject, started: Started, pid: int, number: signal.Signals, within_s: float
) -> float:
    """Sends the signal while an answer is streamed, and waits until the replica's end is told.

    Returns the seconds from one to the other. Raises ClauseFailure without an end.
    """
    bench, replica = subject.bench(), started.replica

    async def work(client: Client) -> float:
        body = {"prompt": "Tell a very long story", "max_tokens": _LONG_TOKENS, "ignore_eos": True}
        async with client.open(COMPLETIONS, {**body, "stream": True}) as response:
            await response.content.readline()
            at_s = time.monotonic()
            os.kill(pid, number)
            if not await bench.until(replica, lambda: replica.ended, within_s):
                await bench.stop(replica, 0)
                words = f"{within_s:g} s after {number.name} for pid {pid}"
                raise ClauseFailure(f"{words} the replica still counts as up")
        return replica.ended_at_s - at_s

    return subject.ask(started, work)
