"""The last resort when the controller must end now: kill every replica, synchronously."""

import threading
import time
from collections.abc import Sequence

from muai_core.runtime.process import ReplicaProcess
from muai_core.runtime.process_table import Process, kill_exactly, read_processes

_POLL_S = 0.01


def kill_all(processes: Sequence[ReplicaProcess], *, wait_s: float = 1.0) -> tuple[str, ...]:
    """SIGKILL to all of them and all they started; what is left after wait_s, in words.

    Every process group gets its signal before anything that could block is done. Blocks the
    caller for wait_s at most; it needs no event loop.
    """
    for process in processes:
        process.kill()
    survivors: list[str] = ["unknown: reading the process table takes too long"]
    # The table is read in a thread: reading another process's environment can block.
    hunt = threading.Thread(target=_hunt, args=(processes, wait_s, survivors), daemon=True)
    hunt.start()
    hunt.join(wait_s)
    for process in processes:
        process.collect()
    return tuple(survivors)


def _hunt(processes: Sequence[ReplicaProcess], wait_s: float, survivors: list[str]) -> None:
    give_up_at = time.monotonic() + wait_s - 2 * _POLL_S
    while True:
        try:
            alive = _alive(processes)
        except OSError as error:
            survivors[:] = [f"unknown: the process table cannot be read: {error.strerror}"]
        else:
            survivors[:] = [member.words for member in alive]
            if not alive:
                return
            for member in alive:
                kill_exactly(member.identity)
        if time.monotonic() >= give_up_at:
            return
        time.sleep(_POLL_S)


def _alive(processes: Sequence[ReplicaProcess]) -> list[Process]:
    table = read_processes()
    members = [member for process in processes for member in process.members_in(table)]
    return [member for member in members if member.alive]
