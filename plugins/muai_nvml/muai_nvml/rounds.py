"""GPU after GPU in one thread; while one of them does not answer, another thread goes on.

An NVML call cannot be interrupted. So a watchdog hands the remaining GPUs to a new thread when a
visit takes longer than `handover_s`; the late thread ends once its call returns, if it ever does.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from msgspec import Struct

from muai_nvml.nvml import Visit
from muai_nvml.wire import Late, Missed, Report


class Task(Struct, frozen=True, kw_only=True):
    """One visit that is to be made."""

    index: int
    everything: bool = False


class _OpenVisit(Struct, kw_only=True):
    task: Task
    visit: Visit
    worker: object
    deadline_s: float
    late: bool = False
    missed: bool = False


class Rounds:
    """`look` is called for each task, never twice at once for the same index.

    `tell` gets `Late` and `Missed`; `on_ready` is called once, when each task of the first call of
    `ask` is done or late.
    """

    def __init__(
        self,
        begin: Callable[[int], Visit],
        look: Callable[[Visit, Task], None],
        deadline_of_s: Callable[[int], float],
        tell: Callable[[Report], None],
        on_ready: Callable[[], None],
        handover_s: float,
    ) -> None:
        self._begin = begin
        self._look = look
        self._deadline_of_s = deadline_of_s
        self._tell = tell
        self._on_ready = on_ready
        self._handover_s = handover_s
        self._ready = False
        self._tasks: deque[Task] = deque()
        self._open: dict[int, _OpenVisit] = {}
        self._on_duty: object = None
        self._changed = threading.Condition()

    def start(self) -> None:
        self._relieve()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def ask(self, tasks: Iterable[Task]) -> None:
        """Does not block. An index that is still being visited is left out when its turn comes."""
        with self._changed:
            self._tasks.extend(tasks)
            self._changed.notify_all()

    def _relieve(self) -> None:
        worker = object()
        self._on_duty = worker
        threading.Thread(target=self._work, args=(worker,), name="visits", daemon=True).start()

    def _work(self, worker: object) -> None:
        while True:
            with self._changed:
                while self._on_duty is worker and not self._tasks:
                    self._changed.wait()
                if self._on_duty is not worker:
                    return
                task = self._tasks.popleft()
                if task.index in self._open:
                    continue
                visit = self._begin(task.index)
                deadline_s = self._deadline_of_s(task.index)
                self._open[task.index] = _OpenVisit(
                    task=task, visit=visit, worker=worker, deadline_s=deadline_s
                )
            self._look(visit, task)
            with self._changed:
                del self._open[task.index]
                if not self._tasks:
                    self._changed.notify_all()

    def _watch(self) -> None:
        while True:
            with self._changed:
                reports = self._judge(time.monotonic())
                ready = not self._ready and not self._tasks
                ready = ready and all(visit.late for visit in self._open.values())
                if not reports and not ready:
                    busy = self._tasks or any(not visit.missed for visit in self._open.values())
                    self._changed.wait(self._handover_s / 2 if busy else None)
                    continue
            for report in reports:
                self._tell(report)
            if ready:
                self._ready = True
                self._on_ready()

    def _judge(self, now_s: float) -> list[Report]:
        """With the lock held."""
        reports: list[Report] = []
        for index, entry in self._open.items():
            after_s = now_s - entry.visit.began_at_s
            if after_s >= self._handover_s and not entry.late:
                entry.late = True
                reports.append(Late(index, entry.visit.call))
                if entry.worker is self._on_duty:
                    self._relieve()
            if after_s >= entry.deadline_s and not entry.missed:
                entry.missed = True
                reports.append(Missed(index, entry.visit.call, after_s))
        return reports
