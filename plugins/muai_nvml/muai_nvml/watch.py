"""The thread that owns the probes: their pipes, their deaths, and when an observation is done."""

import contextlib
import logging
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from msgspec import Struct, field

from muai_nvml.fleet import Fleet
from muai_nvml.probe_process import ProbeEnded, ProbeProcess
from muai_nvml.return_codes import HOST_WIDE
from muai_nvml.slots import Listener, Probe, Slot
from muai_nvml.wire import Setup

_log = logging.getLogger(__name__)

PROBE_COMMAND = (sys.executable, "-P", "-m", "muai_nvml.probe")
#: A GPU that takes longer no longer holds up the others.
_HANDOVER_S = 0.25
#: An observation waits so long for a late GPU after the last one that answered.
_LATE_GRACE_S = 0.25
#: And so long for one that has never answered, which would be missing from the inventory.
_FIRST_PATIENCE_S = 5.0
#: A driver that has to wake a GPU takes seconds.
_FIRST_DEADLINE_FACTOR = 4.0
#: An observation that is not done by then tells what is known.
ROUND_LIMIT_S = 8.0
_CLOSE_WITHIN_S = 2.0
_WAKE_BYTES = 4096

#: Called with the fleet and the time at which it was asked, while the fleet stands still.
Use = Callable[[Fleet, float], None]


class WatchSettings(Struct, frozen=True, kw_only=True):
    """What the probes are told, and how they are started."""

    node: str
    deadline_s: float
    slow_interval_s: float
    events: bool
    env: Mapping[str, str]
    command: tuple[str, ...] = PROBE_COMMAND


class _Round(Struct, kw_only=True, eq=False):
    use: Use
    asked_at_s: float = 0.0
    #: The GPUs whose visit of an earlier round still lasts: they hold up this one no more.
    late: frozenset[int] = frozenset()
    renewed: bool = False
    done: Future[None] = field(default_factory=Future)


class Watch:
    """Runs the fleet. All of it happens in one thread, which lives until `close`."""

    def __init__(self, settings: WatchSettings, listener: Listener) -> None:
        self._settings = settings
        self._fleet = Fleet(self._spawn, self._bury, listener, settings.deadline_s)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._lock = threading.Lock()
        self._wanted: _Round | None = None
        self._round: _Round | None = None
        self._closing = False
        # A daemon: nothing here may keep the controller from ending.
        self._thread = threading.Thread(target=self._run, name="muai-nvml-watch", daemon=True)
        self._thread.start()

    def round(self, use: Use) -> None:
        """Let all GPUs be visited, wait until each has answered or is late, and call `use`.

        Not reentrant. Raises what `use` raises, RuntimeError after `close`, and TimeoutError when
        the watch itself does not get on.
        """
        wanted = _Round(use=use)
        with self._lock:
            if self._closing:
                raise RuntimeError("the NVML device source is closed")
            self._wanted = wanted
            os.write(self._wake_write, b".")
        wanted.done.result(ROUND_LIMIT_S + self._settings.deadline_s)

    @property
    def closed(self) -> bool:
        """Also after an error in it that nothing else could be done about."""
        return self._closing

    def close(self) -> None:
        """Kills all probes and waits for their end, for two seconds at most. Idempotent."""
        with self._lock:
            if not self._closing:
                self._closing = True
                os.write(self._wake_write, b".")
        self._thread.join(2 * _CLOSE_WITHIN_S)

    # Everything below runs in the thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
            error: BaseException = RuntimeError("the NVML device source was closed")
        except BaseException as unexpected:  # noqa: BLE001 - whoever waits must hear of it
            _log.exception("NVML: watching the probes failed")
            error = unexpected
        with self._lock:
            self._closing = True
        for round_ in (self._wanted, self._round):
            if round_ is not None and not round_.done.done():
                round_.done.set_exception(error)
        self._end()

    def _turn(self) -> None:
        timeout_s = self._timeout_s(time.monotonic())
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, _WAKE_BYTES)
            else:
                key.data()
        now_s = time.monotonic()
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.asked_at_s = now_s
            wanted.late = frozenset().union(*(probe.late for probe in self._fleet.probes))
            self._round = wanted
            self._fleet.ask(now_s, now_s)
        self._fleet.tick(now_s)
        if self._round is not None:
            self._settle(self._round, now_s)

    def _timeout_s(self, now_s: float) -> float | None:
        due = [self._fleet.next_due_s()]
        main = self._fleet.main
        if self._round is not None:
            asked_at_s = self._round.asked_at_s
            due += [
                at_s
                for at_s in (
                    self._last_heard_s() + _LATE_GRACE_S,
                    asked_at_s + _FIRST_PATIENCE_S,
                    asked_at_s + ROUND_LIMIT_S,
                    main.started_at_s + ROUND_LIMIT_S if main is not None else 0.0,
                )
                if at_s > now_s
            ]
        first = min((at_s for at_s in due if at_s is not None), default=None)
        return None if first is None else max(0.0, first - now_s)

    def _last_heard_s(self) -> float:
        return max((slot.heard_at_s for slot in self._fleet.slots.values()), default=-1e9)

    def _settle(self, round_: _Round, now_s: float) -> None:
        if not self._is_over(round_, now_s):
            return
        if self._all_fail():
            if not round_.renewed and self._fleet.renew(now_s):
                round_.renewed = True
                return
        elif self._fleet.main is not None and self._fleet.main.ready:
            self._fleet.works()
        self._round = None
        try:
            round_.use(self._fleet, round_.asked_at_s)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            round_.done.set_exception(error)
        else:
            round_.done.set_result(None)

    def _is_over(self, round_: _Round, now_s: float) -> bool:
        main = self._fleet.main
        if main is None or now_s - round_.asked_at_s >= ROUND_LIMIT_S:
            return True
        if main.gpus is None:
            # A driver that hangs is waited for only once.
            return self._fleet.init_hangs or now_s - main.started_at_s >= ROUND_LIMIT_S
        # Until it has been everywhere but at late GPUs, and has counted them.
        if main.owes_since_s is not None:
            return False
        waiting = [slot for slot in self._fleet.slots.values() if self._waits(slot, round_, now_s)]
        if waiting:
            # A probe that had been there just before, on its first round, could not be asked yet.
            self._fleet.ask(now_s, round_.asked_at_s)
        return not waiting

    def _waits(self, slot: Slot, round_: _Round, now_s: float) -> bool:
        """Whether the observation still waits for this GPU."""
        if slot.stuck is not None or slot.heard_at_s >= round_.asked_at_s:
            return False
        probe = self._fleet.responsible(slot.index)
        if probe is None or slot.index not in probe.late:
            return True
        if slot.described is None and now_s - round_.asked_at_s < _FIRST_PATIENCE_S:
            return True
        if slot.index in round_.late:
            return False
        return now_s - max(self._last_heard_s(), round_.asked_at_s) < _LATE_GRACE_S

    def _all_fail(self) -> bool:
        """Whether every GPU that answers does so with a code that may speak of the host."""
        main = self._fleet.main
        if main is None:
            return False
        failures = [slot.failure for slot in self._fleet.slots.values() if slot.stuck is None]
        if not self._fleet.slots:
            failures = [main.host_failure]
        return bool(failures) and all(
            failure is not None and failure.code in HOST_WIDE for failure in failures
        )

    def _spawn(self, only: int | None, without: frozenset[int], with_links: bool) -> ProbeProcess:
        settings = self._settings
        process = ProbeProcess(
            settings.command,
            settings.env,
            Setup(
                controller_pid=os.getpid(),
                node=settings.node,
                only=None if only is None else (only,),
                without=tuple(sorted(without)),
                handover_s=min(_HANDOVER_S, settings.deadline_s / 2),
                deadline_s=settings.deadline_s,
                first_deadline_s=settings.deadline_s * _FIRST_DEADLINE_FACTOR,
                slow_interval_s=settings.slow_interval_s,
                events=settings.events,
                links=with_links,
            ),
        )
        read, errors = selectors.EVENT_READ, process.error_fd
        self._selector.register(process.output_fd, read, lambda: self._read(process))
        self._selector.register(errors, read, lambda: self._read_errors(process))
        return process

    def _bury(self, process: ProbeProcess) -> None:
        """Stops reading from it, and wakes up when it is gone."""
        for fd in (process.output_fd, process.error_fd):
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
        process.close_pipes()
        # Without pidfds it is reaped when something else happens.
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(process.pid)
            self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._gone(pidfd))

    def _gone(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)

    def _read(self, process: ProbeProcess) -> None:
        probe = self._probe(process)
        if probe is None:
            return
        now_s = time.monotonic()
        try:
            for report in process.read():
                self._fleet.hear(probe, report, now_s)
                if self._probe(process) is None:
                    return
        except ProbeEnded as end:
            self._fleet.ended(probe, str(end), now_s)

    def _read_errors(self, process: ProbeProcess) -> None:
        if self._probe(process) is not None and not process.read_errors():
            self._selector.unregister(process.error_fd)

    def _probe(self, process: ProbeProcess) -> Probe | None:
        """None: it has been retired."""
        return next((probe for probe in self._fleet.probes if probe.process is process), None)

    def _end(self) -> None:
        self._fleet.close(time.monotonic())
        give_up_at_s = time.monotonic() + _CLOSE_WITHIN_S
        while self._fleet.burials.pids and time.monotonic() < give_up_at_s:
            # Woken by the pidfds; the pause is for systems without them.
            for key, _ in self._selector.select(0.05):
                if key.data is not None:
                    key.data()
            self._fleet.tick(time.monotonic())
        pids = ", ".join(map(str, self._fleet.burials.pids))
        if pids:
            _log.warning("NVML: probe processes %s are stuck in the driver and stay behind", pids)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
