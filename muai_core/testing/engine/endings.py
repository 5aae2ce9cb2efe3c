"""Clauses on ends: a replica that is stopped, killed, cut short, cannot start, or is not alone.

The clauses with other shapes are here, too, because they start replicas of their own.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

from muai_core.control import events as ev
from muai_core.model.memory import Shape
from muai_core.plugin.failure import ExitEvidence, Failure
from muai_core.runtime.bring_up import LOAD
from muai_core.runtime.process_table import Process, read_process
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.engine.answers import SLACK_BYTES
from muai_core.testing.engine.bench import PROOF_S, Replica, words_of
from muai_core.testing.engine.client import Client
from muai_core.testing.engine.remains import Remains
from muai_core.testing.engine.subject import CUT_SHORT_S, EngineSubject, Started

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_RANK_TRIES = 3
_POLL_S = 0.02
#: Signals that come at the same moment are one.
_BETWEEN_STOPS_S = 0.1
_ENDS = (ev.ReplicaExited, ev.ReplicaStartFailed)


@clause("E50", kind="engine", title="two replicas serve side by side")
def _(subject: EngineSubject) -> None:
    prompt = "Side by side"

    async def ask(client: Client) -> str:
        return (await client.complete(prompt)).text

    first = subject.ask_first(ask)
    second = subject.ask(subject.second(), ask)
    if first != second:
        raise ClauseFailure(f"one replica answers {first!r}, the other {second!r}")
    subject.ask_first(ask)


@clause("E51", kind="engine", title="it ends when it is asked to, without being killed")
def _(subject: EngineSubject) -> None:
    end = subject.first_stopped().end
    if end is None:
        raise ClauseFailure("it does not end")
    if "SIGKILL" in end.cause:
        grace_s = subject.limits.stop_grace_s
        raise ClauseFailure(f"{grace_s:g} s after SIGTERM it still runs: {end.cause}")


@clause("E52", kind="engine", title="after a stop no process of it is left")
def _(subject: EngineSubject) -> None:
    stopped = subject.first_stopped()
    _no_processes(stopped.processes + stopped.release.survivors)


@clause("E53", kind="engine", title="after a stop no shared memory of it is left")
def _(subject: EngineSubject) -> None:
    if left := subject.first_stopped().shared_memory:
        raise ClauseFailure(
            f"left under /dev/shm: {', '.join(left)}; name them in LaunchSpec.shared_memory"
        )


@clause("E54", kind="engine", title="after a stop the memory of its devices is back")
def _(subject: EngineSubject) -> None:
    if subject.device_source is None:
        raise ClauseSkipped("no device source was given that could tell")
    before = subject.first_stopped().used_bytes
    give_up_at_s = time.monotonic() + subject.limits.memory_back_s
    while True:
        held = [
            f"{(now - was) / 1024**3:.1f} GiB of {uuid}"
            for uuid, was in before.items()
            if was is not None
            and (now := subject.used_bytes(uuid)) is not None
            and now - was > SLACK_BYTES
        ]
        if not held:
            return
        if time.monotonic() > give_up_at_s:
            raise ClauseFailure(f"after its end more is in use than before: {', '.join(held)}")
        time.sleep(_POLL_S)


@clause("E55", kind="engine", title="it may be told to stop several times")
def _(subject: EngineSubject) -> None:
    bench, grace_s = subject.bench(), subject.limits.stop_grace_s
    replica, remains = subject.start()

    async def stop() -> None:
        await bench.until(replica, lambda: _loads(replica), subject.limits.start_s)
        for _ in range(3):
            bench.order_stop(replica, grace_s)
            await asyncio.sleep(_BETWEEN_STOPS_S)
        await bench.until(replica, lambda: replica.ended, grace_s + PROOF_S)
        await bench.gone(replica)
        stranger = bench.unknown(f"{subject.deployment.name}.never-started")
        bench.order_stop(stranger, grace_s)
        if len(stranger.events(ev.ReplicaExited)) != 1:
            raise ClauseFailure("an unknown replica that is told to stop is not said to be gone")

    bench.run(stop())
    remains.sweep(subject.identities())
    ends = [event for _, event in replica.told if isinstance(event, _ENDS)]
    if not ends or isinstance(ends[0], ev.ReplicaStartFailed):
        raise ClauseFailure(f"stopped while it loads, it ends as {ends[:1]!r}")
    # Telling it once more after its end has that end told once more.
    if "SIGKILL" in ends[0].cause:
        raise ClauseFailure(f"told to stop again, it does not end any more: {ends[0].cause}")


@clause("E56", kind="engine", title="a start that takes too long is undone and says so")
def _(subject: EngineSubject) -> None:
    bench = subject.hurried_bench()
    replica, remains = subject.start(bench=bench)

    async def fail() -> None:
        limit_s = subject.limits.start_s + PROOF_S
        await bench.until(replica, lambda: replica.serves or replica.ended, limit_s)
        if replica.serves:
            await bench.stop(replica, subject.limits.stop_grace_s)
        await bench.gone(replica)

    bench.run(fail())
    left = _left(subject, remains)
    if replica.serves or replica.events(ev.ReplicaReady):
        raise ClauseSkipped(f"it loads in less than {CUT_SHORT_S:g} s")
    if replica.ended is None:
        raise ClauseFailure("a start that took too long is not said to have failed")
    failure = failure_of(subject, replica.ended, stage=LOAD)
    if failure is not None and failure.kind != "timed_out":
        raise ClauseFailure(f"a start that took too long is called {failure.kind}")
    _no_remains(left)


@clause("E57", kind="engine", title="a start that is called off leaves nothing")
def _(subject: EngineSubject) -> None:
    for moment, grace_s in (("order", 0.0), ("spawn", subject.limits.stop_grace_s), ("load", 0.0)):
        _call_off(subject, moment, grace_s)


def _call_off(subject: EngineSubject, moment: str, grace_s: float) -> None:
    bench = subject.bench()
    replica, remains = subject.start()

    async def call_off() -> None:
        if moment == "spawn":
            await bench.until(replica, lambda: replica.pid, subject.limits.start_s)
        elif moment == "load":
            await bench.until(replica, lambda: _loads(replica), subject.limits.start_s)
        if replica.pid is not None:
            others = subject.identities()
            remains.note(replica.pid, replica.marker, replica.launch, others)
        release = await bench.stop(replica, grace_s)
        if not release.proven:
            raise ClauseFailure(f"called off ({moment}): {', '.join(release.survivors)} is left")

    bench.run(call_off())
    left = _left(subject, remains)
    if replica.ended is None or replica.serves:
        raise ClauseFailure(f"called off ({moment}), its end is not told")
    _no_remains(left)


def _loads(replica: Replica) -> bool:
    """Whether its program runs, or it has ended already."""
    stages = [event.stage for event in replica.events(ev.ReplicaProgressed)]
    return LOAD in stages or replica.ended is not None


@clause("E58", kind="engine", title="a leader that is killed takes everything with it")
def _(subject: EngineSubject) -> None:
    started = subject.second()
    leader = started.replica.pid
    assert leader is not None
    subject.note(started)
    _kill(subject, started, leader)
    stopped = subject.ended(started)
    _no_remains((list(stopped.processes), list(stopped.shared_memory)))


@clause("E59", kind="engine", title="a rank's death is told at once and takes its group down")
def _(subject: EngineSubject) -> None:
    failure: ClauseFailure | None = None
    for _ in range(_RANK_TRIES):
        started = subject.second()
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


def _kill(subject: EngineSubject, started: Started, pid: int) -> float:
    """Seconds from SIGKILL until the replica's end is told. Raises ClauseFailure without one."""
    bench, replica = subject.bench(), started.replica

    async def kill() -> float:
        at_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        if not await bench.until(replica, lambda: replica.ended, PROOF_S):
            await bench.stop(replica, 0)
            raise ClauseFailure(f"{PROOF_S:g} s after pid {pid} was killed it still counts as up")
        return replica.ended_at_s - at_s

    return bench.run(kill())


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


def failure_of(
    subject: EngineSubject, end: ev.ReplicaExited | ev.ReplicaStartFailed, *, stage: str
) -> Failure | None:
    """What the end is called: as it is told, else by the engine itself."""
    told = getattr(end, "failure", None)
    if isinstance(told, Failure):
        return told
    return subject.engine.classify(ExitEvidence(stage=stage, log_tail=end.log_tail))


@clause(
    "E62",
    kind="engine",
    title="tensor parallelism does not change greedy answers",
    needs=("tensor_parallel",),
)
def _(subject: EngineSubject) -> None:
    _same_in(subject, [shape for shape in subject.shapes if shape.pipeline_parallel_size == 1])


@clause(
    "E63",
    kind="engine",
    title="pipeline parallelism does not change greedy answers",
    needs=("pipeline_parallel",),
)
def _(subject: EngineSubject) -> None:
    _same_in(subject, [shape for shape in subject.shapes if shape.pipeline_parallel_size > 1])


def _same_in(subject: EngineSubject, shapes: list[Shape]) -> None:
    if not shapes:
        raise ClauseSkipped("no such shape was offered")
    wanted = subject.texts()
    for shape in shapes:
        started = subject.start_ready(subject.shaped(shape))
        texts = subject.greedy_texts(started)
        subject.stop(started)
        for one, other in zip(wanted, texts, strict=True):
            if one != other:
                raise ClauseFailure(f"{one!r} becomes {other!r} with {shape}")


def _left(subject: EngineSubject, remains: Remains) -> tuple[list[str], list[str]]:
    """Processes and shared memory that are left, in words; then they are removed."""
    others = subject.identities()
    left = remains.processes(others), remains.shared_memory()
    remains.sweep(others)
    return left


def _no_remains(left: tuple[list[str], list[str]]) -> None:
    processes, shared_memory = left
    _no_processes(tuple(processes))
    if shared_memory:
        raise ClauseFailure(f"left under /dev/shm: {', '.join(shared_memory)}")


def _no_processes(processes: tuple[str, ...]) -> None:
    if processes:
        raise ClauseFailure(f"processes are left: {'; '.join(processes)}")
