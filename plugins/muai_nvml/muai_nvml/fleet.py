"""Which probe processes run, for which GPUs, and what follows from what they say or leave unsaid.

One main probe looks at all GPUs. A GPU that misses its deadline there leaves a thread that cannot
be ended: the main probe is replaced by one that leaves this GPU out, and the GPU gets a probe of
its own, again and again with growing pauses, until it answers. When it has done so a few times, a
new main probe takes it back.

All of this runs in one thread, with time as an argument; nothing in it waits or reads a clock.
"""

import logging
from collections.abc import Callable

from muai_nvml.burials import Burials
from muai_nvml.conditions import History
from muai_nvml.driver_events import changes_recovery_action
from muai_nvml.probe_process import ProbeProcess
from muai_nvml.slots import LONGEST_PAUSE_S, Listener, Probe, Slot, Stuck
from muai_nvml.wire import (
    HOST,
    Described,
    EventsBroken,
    GpusCounted,
    InitFailed,
    Late,
    Linked,
    Missed,
    Occurred,
    Ready,
    Report,
    Sample,
    Sampled,
    Started,
    Starting,
)

_log = logging.getLogger(__name__)

_LONGEST_RESTART_PAUSE_S = 30.0
#: Probes of one GPU that were killed and do not die: no more are started meanwhile.
_MOST_UNDEAD = 3
#: When more GPUs hang than this, they take turns at having a probe of their own.
_MOST_ALONE = 16
#: A GPU that was stuck goes back to the main probe after so many answers.
_ANSWERS_TO_REJOIN = 3


class Fleet:
    """The probes, and one slot for each GPU."""

    def __init__(
        self,
        spawn: Callable[[int | None, frozenset[int], bool], ProbeProcess],
        bury: Callable[[ProbeProcess], None],
        listener: Listener,
        deadline_s: float,
    ) -> None:
        """`spawn(only, without, with_links)` may raise OSError; `bury` stops reading from it."""
        self._spawn = spawn
        self.burials = Burials(bury)
        self._listener = listener
        self._deadline_s = deadline_s
        self.main: Probe | None = None
        self.next: Probe | None = None
        self.alone: dict[int, Probe] = {}
        self.slots: dict[int, Slot] = {}
        self.linked = Linked(())
        self._with_links = True
        #: Why NVML did not start in the last probe.
        self.init_failure: InitFailed | None = None
        #: Why the last probe failed, and how many did in a row.
        self.trouble = ""
        self.failures = 0
        #: The last probe that was to start NVML never came back from it.
        self.init_hangs = False
        #: No main probe is started before.
        self.restart_at_s = 0.0
        self._init_failures = 0
        self._renewals = 0
        self._renew_at_s = 0.0

    @property
    def probes(self) -> list[Probe]:
        """All that have not been retired."""
        return [*(probe for probe in (self.main, self.next) if probe), *self.alone.values()]

    def responsible(self, index: int) -> Probe | None:
        """The probe that looks at this GPU."""
        return self.alone.get(index, self.main)

    # What the source wants.

    def ask(self, now_s: float, since_s: float) -> None:
        """Every probe that has not been asked since then, and is through with its last round,
        visits its GPUs. Idempotent for the same `since_s`."""
        if self.main is None and now_s >= self.restart_at_s:
            self._start_main(now_s)
        for probe in self.probes:
            if probe.ready and probe.owes_since_s is None and probe.asked_at_s < since_s:
                probe.asked_at_s = since_s
                probe.process.send(Sample())
                # Also when it could not be sent: then the process is stuck.
                probe.owes_since_s = None if HOST in probe.late else now_s

    def renew(self, now_s: float) -> bool:
        """Start NVML anew, in a new main probe; False when that was tried only lately."""
        if now_s < self._renew_at_s:
            return False
        self._renew_at_s = now_s + min(2.0**self._renewals, LONGEST_PAUSE_S)
        self._renewals += 1
        self._start_afresh(now_s)
        return True

    def works(self) -> None:
        """A whole round was answered: earlier failures no longer count, unless they go on."""
        if self.main is None or self.main.tainted or self.next is not None:
            return
        self.failures = self._renewals = self._init_failures = 0
        self.trouble = ""
        self.init_failure = None

    def close(self, now_s: float) -> None:
        """Kills all probes."""
        for probe in self.probes:
            self._retire(probe, now_s)

    # What the probes say.

    def hear(self, probe: Probe, report: Report, now_s: float) -> None:
        """One report of a probe that has not been retired."""
        probe.heard_at_s = now_s
        match report:
            case Starting():
                probe.running = True
            case InitFailed():
                self._init_failed(probe, report, now_s)
            case Started(gpus):
                probe.gpus = gpus
                self.init_hangs = False
                if probe is self.main:
                    self._resize(gpus)
            case Described():
                self._describe(report)
            case Linked():
                self.linked = report.over(self.linked)
            case Sampled():
                self._sample(probe, report, now_s)
            case Late(index):
                probe.late.add(index)
                if index == HOST:
                    probe.owes_since_s = None
            case Missed():
                self._missed(probe, report, now_s)
            case Ready():
                probe.ready = True
                if probe is self.next:
                    self._switch(now_s)
            case GpusCounted():
                if probe is self.main:
                    self._start_afresh(now_s)
                probe.tainted = True
            case Occurred():
                self._occurred(probe, report)
            case EventsBroken(text):
                self._listener.events_broken(text)
                # In its visits it registers the GPUs again.
                probe.process.send(Sample())

    def ended(self, probe: Probe, reason: str, now_s: float) -> None:
        """The process is gone, silent or garbled."""
        self._retire(probe, now_s)
        if probe.only is not None:
            slot = self._slot(probe.only)
            if slot.stuck is not None:
                self._stick(slot, reason, slot.stuck.since_s, now_s)
            elif self.main is not None:
                # The main probe can take it back.
                self.main.tainted = True
            return
        self._count_failure(reason, now_s)
        self._promote(now_s)

    # What time brings.

    def tick(self, now_s: float) -> None:
        """Whatever is due."""
        for probe in self.probes:
            ends_s = probe.patience_ends_s(self._deadline_s)
            if ends_s is not None and now_s >= ends_s:
                silent_s = now_s - max(probe.heard_at_s, probe.owes_since_s or 0.0)
                pid = probe.process.pid
                self.init_hangs = probe.running and probe.gpus is None
                self.ended(
                    probe, f"the probe process {pid} said nothing for {silent_s:.1f} s", now_s
                )
        for slot in list(self.slots.values()):
            if slot.stuck is not None and slot.index not in self.alone:
                self._retry(slot, slot.stuck, now_s)
        if self.next is not None and self.next.tainted:
            self._retire(self.next, now_s)
        if self._wants_next and now_s >= self.restart_at_s:
            self.next = self._start(None, self._stuck_ones, now_s)
        self.burials.reap(now_s)

    def next_due_s(self) -> float | None:
        """When `tick` has something to do, unless a probe speaks first."""
        due = [probe.patience_ends_s(self._deadline_s) for probe in self.probes]
        due += [
            slot.stuck.retry_at_s
            for slot in self.slots.values()
            if slot.stuck is not None and slot.index not in self.alone and self.main is not None
        ]
        due.append(self.burials.next_due_s())
        if self._wants_next:
            due.append(self.restart_at_s)
        return min((at_s for at_s in due if at_s is not None), default=None)

    @property
    def _stuck_ones(self) -> frozenset[int]:
        return frozenset(slot.index for slot in self.slots.values() if slot.stuck is not None)

    @property
    def _wants_next(self) -> bool:
        if self.main is None or self.next is not None:
            return False
        return self.main.tainted or any(
            self._slot(index).answers_alone >= _ANSWERS_TO_REJOIN for index in self.alone
        )

    # Starting and ending probes.

    def _start(self, only: int | None, without: frozenset[int], now_s: float) -> Probe | None:
        try:
            process = self._spawn(only, without, only is None and self._with_links)
        except OSError as error:
            self._count_failure(f"no probe process can be started: {error}", now_s)
            return None
        return Probe(
            process=process,
            started_at_s=now_s,
            heard_at_s=now_s,
            owes_since_s=now_s,
            only=only,
            without=without,
        )

    def _start_main(self, now_s: float) -> None:
        self.main = self._start(None, self._stuck_ones, now_s)

    def _start_afresh(self, now_s: float) -> None:
        """The numbers of the GPUs may have changed, and who was stuck may not be any more."""
        for probe in self.probes:
            self._retire(probe, now_s)
        for slot in self.slots.values():
            slot.stuck = None
            slot.answers_alone = 0
        self._start_main(now_s)

    def _promote(self, now_s: float) -> None:
        """After the loss of the main probe or of its successor."""
        if self.main is not None:
            return
        self.main, self.next = self.next, None
        if self.main is not None:
            self._take_over(self.main, now_s)
        elif now_s >= self.restart_at_s:
            self._start_main(now_s)

    def _switch(self, now_s: float) -> None:
        old, new = self.main, self.next
        assert new is not None
        if old is not None:
            self._retire(old, now_s)
        self.main, self.next = new, None
        self._take_over(new, now_s)

    def _take_over(self, main: Probe, now_s: float) -> None:
        for index, probe in list(self.alone.items()):
            if index not in main.without:
                self._retire(probe, now_s)
                self._slot(index).answers_alone = 0
        if main.gpus is not None:
            self._resize(main.gpus)

    def _retire(self, probe: Probe, now_s: float) -> None:
        self.burials.bury(probe.process, probe.only, now_s)
        if probe is self.main:
            self.main = None
        elif probe is self.next:
            self.next = None
        elif probe.only is not None:
            self.alone.pop(probe.only, None)

    def _retry(self, slot: Slot, stuck: Stuck, now_s: float) -> None:
        if now_s < stuck.retry_at_s or self.main is None:
            return
        pause_s = self._deadline_s if len(self.alone) >= _MOST_ALONE else 0.0
        if self.burials.waiting(slot.index) >= _MOST_UNDEAD:
            pause_s = LONGEST_PAUSE_S
        if pause_s:
            stuck.retry_at_s = now_s + pause_s
            return
        probe = self._start(slot.index, frozenset(), now_s)
        if probe is None:
            stuck.retry_at_s = now_s + self._deadline_s
        else:
            self.alone[slot.index] = probe

    def _count_failure(self, reason: str, now_s: float) -> None:
        """The first is followed by a restart at once, further ones by growing pauses."""
        _log.warning("NVML: %s", reason)
        self.trouble = reason
        pause_s = min(0.5 * 2**self.failures, _LONGEST_RESTART_PAUSE_S) if self.failures else 0.0
        self.failures += 1
        self.restart_at_s = now_s + pause_s

    def _init_failed(self, probe: Probe, report: InitFailed, now_s: float) -> None:
        if probe.only is not None:
            self.ended(probe, report.text, now_s)
            return
        was_main = probe is self.main
        self._retire(probe, now_s)
        pause_s = min(2.0**self._init_failures, LONGEST_PAUSE_S)
        self._init_failures += 1
        self.restart_at_s = now_s + pause_s
        if was_main:
            self.init_failure = report
            self._promote(now_s)

    # The GPUs.

    def _slot(self, index: int) -> Slot:
        if index not in self.slots:
            self.slots[index] = Slot(index=index, history=History())
        return self.slots[index]

    def _resize(self, gpus: int) -> None:
        for index in [index for index in self.slots if index >= gpus]:
            del self.slots[index]
        for index in range(gpus):
            self._slot(index)

    def _describe(self, report: Described) -> None:
        for slot in self.slots.values():
            # It has moved, after a change of the driver's or the number of GPUs.
            moved = slot.described is not None and slot.described.gpu_uuid == report.gpu_uuid
            if moved and slot.index != report.index:
                slot.forget()
        self._slot(report.index).describe(report)

    def _sample(self, probe: Probe, report: Sampled, now_s: float) -> None:
        probe.late.discard(report.index)
        if report.index == HOST:
            probe.owes_since_s = None
            probe.host_seen = True
            probe.host_failure = report.failure
            return
        slot = self._slot(report.index)
        slot.heard_at_s = now_s
        slot.failure = report.failure
        if report.failure is None:
            slot.sampled = report
            slot.history.note(report.facts)
        if probe.only is not None:
            slot.stuck = None
            slot.answers_alone += 1
        elif slot.stuck is not None:
            # The call has returned after all.
            slot.stuck.retry_at_s = min(slot.stuck.retry_at_s, now_s)
        slot.looking = False
        if slot.recheck:
            slot.recheck = False
            self._listener.rechecked(slot)

    def _missed(self, probe: Probe, report: Missed, now_s: float) -> None:
        words = f"{report.call} has not returned for {report.after_s:.1f} s"
        if report.index == HOST:
            self._with_links = False
            probe.tainted = True
            self._count_failure(words, now_s)
            return
        slot = self._slot(report.index)
        if probe.only is not None:
            self._retire(probe, now_s)
        else:
            probe.tainted = True
            if slot.stuck is not None:
                return
        self._stick(slot, words, now_s - report.after_s, now_s)

    def _stick(self, slot: Slot, words: str, since_s: float, now_s: float) -> None:
        slot.stick(words, since_s, now_s, self._deadline_s)
        self._listener.unresponsive(slot)

    def _occurred(self, probe: Probe, event: Occurred) -> None:
        slot = self.slots.get(event.index) if event.index is not None else None
        if slot is not None:
            recheck = changes_recovery_action(event)
            # What it counts may have changed; a burst of events is one reason to look.
            if recheck or not slot.looking:
                slot.looking = probe.process.send(Sample(only=slot.index, everything=True))
                slot.recheck |= recheck
        self._listener.occurred(slot, event, probe.process.pid)
