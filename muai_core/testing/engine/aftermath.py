"""After a replica's end: what it left, and what its end is called."""

from muai_core.control import events as ev
from muai_core.plugin.failure import ExitEvidence, Failure
from muai_core.testing.clauses import ClauseFailure
from muai_core.testing.engine.remains import Remains
from muai_core.testing.engine.subject import EngineSubject


def failure_of(
    subject: EngineSubject, end: ev.ReplicaExited | ev.ReplicaStartFailed, *, stage: str
) -> Failure | None:
    """What the end is called: as it is told, else by the engine itself."""
    told = getattr(end, "failure", None)
    if isinstance(told, Failure):
        return told
    return subject.engine.classify(ExitEvidence(stage=stage, log_tail=end.log_tail))


def look_and_sweep(subject: EngineSubject, remains: Remains) -> tuple[list[str], list[str]]:
    """Processes and shared memory that are left, in words; then they are removed."""
    others = subject.identities()
    left = remains.processes(others), remains.shared_memory()
    remains.sweep(others)
    return left


def no_remains(left: tuple[list[str], list[str]]) -> None:
    processes, shared_memory = left
    no_processes(tuple(processes))
    if shared_memory:
        raise ClauseFailure(f"left under /dev/shm: {', '.join(shared_memory)}")


def no_processes(processes: tuple[str, ...]) -> None:
    if processes:
        raise ClauseFailure(f"processes are left: {'; '.join(processes)}")
