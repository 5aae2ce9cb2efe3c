"""Clauses on ends: a replica that is stopped, cut short, called off, or is not alone.

The clauses with other shapes are here, too, because they start replicas of their own.
"""

import asyncio
import time

from muai_core.control import events as ev
from muai_core.model.memory import Shape
from muai_core.runtime.bring_up import LOAD
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.engine.aftermath import (
    failure_of,
    look_and_sweep,
    no_processes,
    no_remains,
)
from muai_core.testing.engine.answers import SLACK_BYTES
from muai_core.testing.engine.bench import PROOF_S, Replica
from muai_core.testing.engine.client import Client
from muai_core.testing.engine.subject import CUT_SHORT_S, EngineSubject

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
    no_processes(stopped.processes + stopped.release.survivors)


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
    left = look_and_sweep(subject, remains)
    if replica.serves or replica.events(ev.ReplicaReady):
        raise ClauseSkipped(f"it loads in less than {CUT_SHORT_S:g} s")
    if replica.ended is None:
        raise ClauseFailure("a start that took too long is not said to have failed")
    failure = failure_of(subject, replica.ended, stage=LOAD)
    if failure is not None and failure.kind != "timed_out":
        raise ClauseFailure(f"a start that took too long is called {failure.kind}")
    no_remains(left)


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
    left = look_and_sweep(subject, remains)
    if replica.ended is None or replica.serves:
        raise ClauseFailure(f"called off ({moment}), its end is not told")
    no_remains(left)


def _loads(replica: Replica) -> bool:
    """Whether its program runs, or it has ended already."""
    stages = [event.stage for event in replica.events(ev.ReplicaProgressed)]
    return LOAD in stages or replica.ended is not None


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
        for one, other in zip(wanted, subject.texts_in(shape), strict=True):
            if one != other:
                raise ClauseFailure(f"{one!r} becomes {other!r} with {shape}")
