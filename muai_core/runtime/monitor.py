"""Watching the devices: one thread per device source, so that none can delay anything else."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from muai_core.control.events import DevicesObserved, DeviceSourceFailed, Event
from muai_core.model.device import Inventory
from muai_core.planning.wording import described, one_line
from muai_core.plugin.device_source import DeviceSource

_log = logging.getLogger(__name__)

#: An observation that takes longer than this many intervals, and this many seconds, is reported.
_PATIENCE_INTERVALS = 2.0
_PATIENCE_S = 5.0


class SourceThread:
    """Observes one source for ever: at once, then every interval. Never overlaps itself."""

    def __init__(
        self,
        source: DeviceSource,
        options: Mapping[str, Any],
        interval_s: float,
        clock: Callable[[], float],
        emit: Callable[[Event], None],
    ) -> None:
        self.source = source
        self.busy_since_s: float | None = None
        #: Set once the source has answered or failed for the first time.
        self.answered = threading.Event()
        self._options = options
        self._interval_s = interval_s
        self._clock = clock
        self._emit = emit
        self._stop = threading.Event()
        # A daemon: a source that is stuck in a driver must not keep the process alive.
        self._thread = threading.Thread(
            target=self._run, name=f"muai-devices-{source.name}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        opened = False
        while not self._stop.is_set():
            self.busy_since_s = self._clock()
            try:
                if not opened:
                    self.source.open(self._options)
                    opened = True
                event = self._observed(self.source.observe(self._clock()))
            except BaseException as error:  # noqa: BLE001 - not even SystemExit ends the watch
                event = self._failed(described(error))
            self.busy_since_s = None
            self._emit(event)
            self.answered.set()
            self._stop.wait(self._interval_s)
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
        try:
            # No field has been checked yet, and a NaN is no reading.
            inventory = msgspec.json.decode(msgspec.json.encode(inventory), type=Inventory)
        except (ValueError, TypeError, OverflowError) as error:
            return self._failed(f"observe() returned an Inventory that is malformed: {error}")
        if inventory.observed_at_s > self._clock():
            # Taken at its word, it would overrule every later one.
            return self._failed("observe() returned an Inventory whose observed_at_s is to come")
        return DevicesObserved(inventory=inventory)

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
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._emit = emit
        self._interval_s = interval_s
        self._threads = [
            SourceThread(source, options, interval_s, clock, self._emit_from_thread)
            for source, options in sources.items()
        ]
        self._watch: asyncio.Task[None] | None = None

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
            self._loop.call_soon_threadsafe(self._emit, event)
        except RuntimeError:  # The loop has closed: a stuck source answered after the end.
            _log.debug("an observation came after the end")

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
