"""A device source under test, and what it said and left behind in two rounds of use.

A round is what a controller does: open, listen, observe again and again, close. The first is
listened to, the second is not, as in commands that look once. Clauses look at what was recorded;
each works on its own, too: what it needs is done when it is first asked for.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, structs

from muai_core.model.device import Device, DeviceMeasurements, Inventory
from muai_core.planning.wording import described
from muai_core.plugin.device_source import DeviceSource, Happening, SelfTest
from muai_core.runtime.self_tests import well_formed
from muai_core.testing import registration, surroundings
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped
from muai_core.testing.part_thread import Attempt, PartThread, Pending
from muai_core.testing.surroundings import Surroundings

_OBSERVATIONS = 4
#: The controller's clock in a kit; a source that asks another clock differs by far.
_CLOCK_BEGINS_AT_S = 1_000_000.0
#: How long after its end a source is listened to.
_LATE_S = 0.3


class DeviceSourceLimits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds."""

    #: One observation; the first includes `open` and `listen`. The device monitor's patience.
    observe_s: float = 5.0
    #: `explain_absence`, which must not block.
    explain_s: float = 0.5
    #: What the device monitor waits at the end.
    close_s: float = 2.0
    #: How the device is tested; the test itself has the time that it asks for.
    ask_self_test_s: float = 5.0
    #: Importing the plugin, in processor time beyond the core's own import.
    import_s: float = 0.1


class Observation(Struct, frozen=True, kw_only=True):
    """One answer of `observe`, whatever it is. Times are on the kit's clock."""

    answer: object
    asked_at_s: float
    ended_at_s: float
    took_s: float


class Round(Struct, kw_only=True):
    """What was seen from `open` to `close`."""

    opened_at_s: float
    observations: list[Observation] = []
    #: Whatever was told, and when.
    told: list[tuple[float, object]] = []
    closed_at_s: float | None = None


class Endings(Struct, frozen=True, kw_only=True):
    """How both rounds ended."""

    first: Attempt[None]
    #: Closing it once more.
    again: Attempt[None]
    #: Of the first round, after its end.
    told_late: tuple[object, ...]
    threads: tuple[str, ...]
    processes: tuple[str, ...]
    #: None: the second round did not get that far, see `second_failure`.
    second: Round | None
    second_failure: str | None
    #: Beyond those after the first round.
    descriptors: tuple[str, ...]


class DeviceSourceSubject:
    """One source. Use it from one thread, and close it."""

    def __init__(
        self,
        source: DeviceSource,
        options: Mapping[str, Any] | None = None,
        *,
        plugin_module: str | None = None,
        limits: DeviceSourceLimits | None = None,
    ) -> None:
        """`options` as in the config; `plugin_module` has the plugin's hooks, else it is found."""
        self.source = source
        self.given_options = dict(options or {})
        self.limits = limits or DeviceSourceLimits()
        self.plugin_module = plugin_module or registration.plugin_module_of(source)
        self._part = PartThread()
        #: Self-tests are asked for in another thread.
        self._other = PartThread()
        self._offset_s = _CLOCK_BEGINS_AT_S - time.monotonic()
        self._before: Surroundings | None = None
        self._first: Round | None = None
        self._failure: ClauseFailure | None = None
        self._open: Round | None = None
        self._endings: Endings | None = None

    def now_s(self) -> float:
        """The controller's clock."""
        return time.monotonic() + self._offset_s

    @property
    def part(self) -> PartThread:
        """Where the source lives."""
        return self._part

    def ask_self_test(self, device: Device) -> SelfTest | None:
        """How to test the device. Raises ClauseFailure."""
        self.opened()
        limit_s = self.limits.ask_self_test_s
        what = f"self_test() of {device.uuid}"
        answer: object = self._other.call(
            what, lambda: self.source.self_test(device), limit_s
        ).value
        try:
            spec = None if answer is None else well_formed(answer)
        except (TypeError, ValueError) as error:
            raise ClauseFailure(f"{what} is malformed: {described(error)}") from error
        if spec is not None and not (spec.argv and spec.argv[0]):
            raise ClauseFailure(f"{what} has no command")
        return spec

    # What was observed

    def first(self) -> Round:
        """The first round. Raises ClauseSkipped when nothing can be observed (`why_not`)."""
        if self._first is None and self._failure is None:
            self._before = surroundings.look()
            try:
                self._first = self._round(listen=True)
            except ClauseFailure as failure:
                self._failure = failure
        if self._first is None:
            raise ClauseSkipped("it could not be observed, see the clause on observing")
        return self._first

    def why_not(self) -> ClauseFailure | None:
        """Why there is no first round."""
        try:
            self.first()
        except ClauseSkipped:
            if self._failure is None:
                raise
        return self._failure

    def inventories(self) -> list[tuple[Observation, Inventory]]:
        """What was observed in the first round. Raises ClauseSkipped when it is malformed."""
        found = []
        for observation in self.first().observations:
            inventory = observation.answer
            if not isinstance(inventory, Inventory) or malformed(inventory) is not None:
                raise ClauseSkipped("it is malformed, see the clause on observing")
            found.append((observation, inventory))
        return found

    def devices(self) -> tuple[Device, ...]:
        """The devices that it saw first. Raises ClauseSkipped when there are none."""
        devices = self.inventories()[0][1].devices
        if not devices:
            raise ClauseSkipped("it found no device here")
        return devices

    def before(self) -> Surroundings:
        """This process before the first round."""
        self.first()
        assert self._before is not None
        return self._before

    def opened(self) -> Round:
        """A round that has not ended: the first, or another one after that."""
        first = self.first()
        if self._endings is None and self._open is None:
            return first
        if self._open is None:
            self._open = self._round(listen=False)
        return self._open

    # How it ended

    def endings(self) -> Endings:
        """Ends the first round, and makes a second one. Raises ClauseSkipped."""
        if self._endings is None:
            self._endings = self._end()
        return self._endings

    def close(self) -> None:
        """Ends what is open. Once."""
        first_is_open = self._first is not None and self._endings is None
        if not self._part.is_stuck and (first_is_open or self._open is not None):
            self._part.attempt("close()", self.source.close, self.limits.close_s)
        self._part.close()
        self._other.close()

    def _end(self) -> Endings:
        first, before = self.first(), self.before()
        first_end = self._close(first)
        own = {self._part.thread, self._other.thread}
        threads = surroundings.new_threads(before, own)
        processes = surroundings.new_processes(before)
        self._listen_on(first)
        again = self._part.attempt("close()", self.source.close, self.limits.close_s)
        between = surroundings.look()
        second, second_failure = None, None
        try:
            second = self._round(listen=False)
            self._close(second)
        except (ClauseFailure, ClauseSkipped) as failure:
            second_failure = str(failure)
        assert first.closed_at_s is not None
        return Endings(
            first=first_end,
            again=again,
            told_late=tuple(what for at_s, what in first.told if at_s > first.closed_at_s),
            threads=threads or surroundings.new_threads(before, own),
            processes=processes or surroundings.new_processes(before),
            second=second,
            second_failure=second_failure,
            descriptors=surroundings.more_descriptors(between),
        )

    def _round(self, *, listen: bool) -> Round:
        """Opens and observes. Raises ClauseFailure."""
        options = registration.completed_options(self.source, self.given_options)
        opened = Round(opened_at_s=self.now_s())
        limit_s = self.limits.observe_s
        took_s = self._part.call("open()", lambda: self.source.open(options), limit_s).took_s
        if listen:
            tell = self._listener(opened)
            took_s += self._part.call("listen()", lambda: self.source.listen(tell), limit_s).took_s
        for _ in range(_OBSERVATIONS):
            opened.observations.append(self._observe(took_s))
            took_s = 0.0
        return opened

    def begin_look(self) -> Pending[Inventory]:
        """One more look, to be finished by `part`."""
        now_s = self.now_s()
        return self._part.begin("observe()", lambda: self.source.observe(now_s))

    def _observe(self, took_before_s: float) -> Observation:
        asked_at_s = self.now_s()
        attempt = self._part.call(
            "observe()", lambda: self.source.observe(asked_at_s), self.limits.observe_s
        )
        return Observation(
            answer=attempt.value,
            asked_at_s=asked_at_s,
            ended_at_s=self.now_s(),
            took_s=attempt.took_s + took_before_s,
        )

    def _listener(self, opened: Round) -> Callable[[Happening], None]:
        return lambda happening: opened.told.append((self.now_s(), happening))

    def _listen_on(self, ended: Round) -> None:
        """For a moment, or until something is told that comes too late."""
        give_up_at_s = self.now_s() + _LATE_S
        while self.now_s() < give_up_at_s:
            if ended.told and ended.told[-1][0] > (ended.closed_at_s or 0):
                return
            time.sleep(0.01)

    def _close(self, opened: Round) -> Attempt[None]:
        ended = self._part.attempt("close()", self.source.close, self.limits.close_s)
        opened.closed_at_s = self.now_s()
        return ended


def malformed(inventory: Inventory) -> str | None:
    """What the device monitor would refuse in it, in words; None: nothing."""
    try:
        # A NaN is no reading; in what is measured it is one, see the clause on that.
        facts = structs.replace(inventory, measurements=())
        msgspec.json.decode(msgspec.json.encode(facts), type=Inventory)
        measurements = msgspec.msgpack.encode(inventory.measurements)
        msgspec.msgpack.decode(measurements, type=tuple[DeviceMeasurements, ...])
    except (ValueError, TypeError, OverflowError) as error:
        return described(error)
    return None
