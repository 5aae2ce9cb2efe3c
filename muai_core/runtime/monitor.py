"""Watching the devices: one thread per device source, so that none can delay anything else."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import structs

from muai_core.control.events import DevicesObserved, DeviceSourceFailed, Event
from muai_core.model.device import DeviceMeasurements, DeviceReading, Inventory
from muai_core.planning.wording import described, one_line
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.happenings import HappeningQueue

_log = logging.getLogger(__name__)

#: An observation that takes longer than this many intervals, and this many seconds, is reported.
_PATIENCE_INTERVALS = 2.0
_PATIENCE_S = 5.0

#: What an observation was and how long it took, in seconds.
Observed = Callable[[str, float], None]


class SourceThread:
    """Observes one source for ever: at once, then every interval. Never overlaps itself."""

    def __init__(
        self,
        source: DeviceSource,
        options: Mapping[str, Any],
        interval_s: float,
        clock: Callable[[], float],
        emit: Callable[[Event], None],
        *,
        measured: Callable[[str, tuple[DeviceMeasurements, ...]], None] | None = None,
        timed: Observed | None = None,
        happenings: bool = False,
    ) -> None:
        """`emit`, `measured` and `timed` are called in this thread or in one of the source's.

        `measured` gets what an inventory measured, right before the inventory is emitted without
        it. With `happenings` the source is listened to between its observations.
        """
        self.source = source
        self.busy_since_s: float | None = None
        #: Set once the source has answered or failed for the first time.
        self.answered = threading.Event()
        self._options = options
        self._interval_s = interval_s
        self._clock = clock
        self._emit = emit
        self._measured = measured
        self._timed = timed
        self._queue = HappeningQueue(source.name, clock, emit) if happenings else None
        self._stop = threading.Event()
        self._wake = threading.Event()
        # A daemon: a source that is stuck in a driver must not keep the process alive.
        self._thread = threading.Thread(
            target=self._run, name=f"muai-devices-{source.name}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def look_again(self) -> None:
        """Observe as soon as the observation under way is over."""
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        opened = False
        while not self._stop.is_set():
            self._wake.clear()
            began_s = self.busy_since_s = self._clock()
            try:
                if not opened:
                    self.source.open(self._options)
                    opened = True
                    if self._queue is not None:
                        self.source.listen(self._queue.put)
                event = self._observed(self.source.observe(self._clock()))
            except BaseException as error:  # noqa: BLE001 - a source may raise anything at all
                event = self._failed(described(error))
            self.busy_since_s = None
            if self._timed is not None:
                self._timed(self.source.name, self._clock() - began_s)
            self._emit(event)
            self.answered.set()
            self._wake.wait(self._interval_s)
        if opened:
            try:
                self.source.close()
            except BaseException:  # noqa: BLE001 - a source may raise anything at all
                _log.exception("device source %s failed to close", self.source.name)

    def _observed(self, inventory: object) -> Event:
        if not isinstance(inventory, Inventory):
            return self._failed(f"observe() returned {type(inventory).__name__}, not Inventory")
        if inventory.source != self.source.name:
            return self._failed(f"observe() spoke for another source, {inventory.source!r}")
        measurements = inventory.measurements
        try:
            # No field has been checked yet, and a NaN is no reading.
            facts = structs.replace(inventory, measurements=())
            facts = msgspec.json.decode(msgspec.json.encode(facts), type=Inventory)
            # Here it is one: what cannot be measured now is left out by whoever shows it.
            measurements = msgspec.msgpack.decode(
                msgspec.msgpack.encode(measurements), type=tuple[DeviceMeasurements, ...]
            )
        except (ValueError, TypeError, OverflowError) as error:
            return self._failed(f"observe() returned an Inventory that is malformed: {error}")
        if facts.observed_at_s > self._clock():
            # Taken at its word, it would overrule every later one.
            return self._failed("observe() returned an Inventory whose observed_at_s is to come")
        if self._measured is not None:
            self._measured(self.source.name, measurements)
        return DevicesObserved(inventory=facts)

    def _failed(self, reason: str) -> Event:
        return DeviceSourceFailed(source=self.source.name, reason=one_line(reason, 500))


class DeviceMonitor:
    """All device sources. Events come through `emit`, on the event loop's thread."""

    def __init__(
        self,
        sources: Mapping[DeviceSource, Mapping[str, Any]],
        interval_s: float,
        clock: Callable[[], float],
        emit: Callable[[Event], None],
        timed: Observed | None = None,
    ) -> None:
        """`timed` is called on the sources' threads after every observation."""
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._emit = emit
        self._interval_s = interval_s
        #: The last measurements of each device, by source. Each is replaced whole.
        self._measurements: dict[str, tuple[DeviceMeasurements, ...]] = {}
        #: The last inventory of each source.
        self._inventories: dict[str, Inventory] = {}
        #: When a process of ours was last seen on a device, by UUID.
        self._own_seen_at_s: dict[str, float] = {}
        self._news = asyncio.Event()
        self._threads = [
            SourceThread(
                source,
                options,
                interval_s,
                clock,
                self._emit_from_thread,
                measured=self._measurements.__setitem__,
                timed=timed,
                happenings=True,
            )
            for source, options in sources.items()
        ]
        self._watch: asyncio.Task[None] | None = None

    @property
    def measurements(self) -> dict[str, DeviceMeasurements]:
        """What was measured last, by device UUID."""
        every = list(self._measurements.values())
        return {one.uuid: one for measured in every for one in measured}

    def absences(self) -> list[str]:
        """A line from each source that found nothing and can say why."""
        lines = []
        for thread in self._threads:
            inventory = self._inventories.get(thread.source.name)
            if inventory is not None and not inventory.devices:
                lines.append(explained_absence(thread.source))
        return [line for line in lines if line]

    def reading(self, uuid: str) -> DeviceReading | None:
        """The last reading of a device; None when there is none."""
        for inventory in self._inventories.values():
            for reading in inventory.readings:
                if reading.uuid == uuid:
                    return reading
        return None

    def own_processes_seen_since(self, uuid: str, at_s: float) -> bool:
        """Whether the device's source has listed a process of ours on it at or after `at_s`."""
        return self._own_seen_at_s.get(uuid, float("-inf")) >= at_s

    async def fresh_readings(
        self, uuids: Iterable[str], timeout_s: float
    ) -> dict[str, DeviceReading]:
        """Look at these devices again and return what was read after this call, by UUID.

        Those that did not answer within `timeout_s` seconds are missing.
        """
        asked_at_s, wanted = self._clock(), set(uuids)
        for thread in self._threads:
            inventory = self._inventories.get(thread.source.name)
            if inventory is not None and any(one.uuid in wanted for one in inventory.devices):
                thread.look_again()
        fresh: dict[str, DeviceReading] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    fresh = self._read_since(asked_at_s, wanted)
                    if len(fresh) == len(wanted):
                        break
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return fresh

    def _read_since(self, at_s: float, wanted: set[str]) -> dict[str, DeviceReading]:
        return {
            reading.uuid: reading
            for inventory in self._inventories.values()
            if inventory.observed_at_s >= at_s
            for reading in inventory.readings
            if reading.uuid in wanted
            and (reading.sampled_at_s is None or reading.sampled_at_s >= at_s)
        }

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._watch = asyncio.create_task(self._report_stuck(), name="device-monitor")

    async def first_answers(self, timeout_s: float) -> list[str]:
        """Wait until every source has answered or failed once, for `timeout_s` seconds at most.

        Returns the names of those that have not. What the others told has been emitted by then.
        """
        deadline_s = self._clock() + timeout_s
        while True:
            silent = [t.source.name for t in self._threads if not t.answered.is_set()]
            if not silent or self._clock() >= deadline_s:
                # What the sources have told lies behind this task in the loop's queue.
                await asyncio.sleep(0)
                return silent
            await asyncio.sleep(0.01)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Stop all threads; one that is stuck is left behind after `timeout_s` seconds."""
        if self._watch is not None:
            self._watch.cancel()
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, timeout_s)

    def _emit_from_thread(self, event: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(self._take, event)
        except RuntimeError:  # The loop has closed: a stuck source answered after the end.
            _log.debug("an observation came after the end")

    def _take(self, event: Event) -> None:
        if isinstance(event, DevicesObserved):
            inventory = event.inventory
            self._inventories[inventory.source] = inventory
            for reading in inventory.readings:
                if any(process.own for process in reading.processes):
                    self._own_seen_at_s[reading.uuid] = inventory.observed_at_s
            self._news.set()
        self._emit(event)

    async def _report_stuck(self) -> None:
        patience_s = max(_PATIENCE_S, _PATIENCE_INTERVALS * self._interval_s)
        reported: dict[str, float] = {}
        while True:
            await asyncio.sleep(min(1.0, self._interval_s))
            for thread in self._threads:
                since_s, name = thread.busy_since_s, thread.source.name
                if since_s is None or reported.get(name) == since_s:
                    continue
                if self._clock() - since_s > patience_s:
                    reported[name] = since_s
                    reason = f"no answer within {patience_s:g} s; its last inventory stays"
                    self._emit(DeviceSourceFailed(source=name, reason=reason))


def explained_absence(source: DeviceSource) -> str | None:
    """What a source says about finding nothing, in one line; None when there is nothing to say."""
    try:
        line = source.explain_absence()
    except Exception as error:  # noqa: BLE001 - a source may raise anything at all
        return f"device source {source.name} found nothing; {described(error)}"
    return None if line is None else one_line(line, 500)
