"""The asyncio shell around the control plane: everything that touches the world, put together.

    device sources ─┐                                    ┌─▶ supervisor ─▶ engine processes
    supervisor ─────┼─▶ inbox ─▶ plane.step ─▶ executor ─┼─▶ gateway (routing table)
    gateway ────────┘      │                             └─▶ …
                           └─▶ journal, metrics, narrator

One task owns the plane and feeds it batches. Everything else runs beside it and reports back
through the inbox, so no driver can delay or crash the control plane.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import muai_core
from muai_core.config.loaded import LoadedConfig
from muai_core.control import events as ev
from muai_core.gateway.server import Gateway
from muai_core.model.routing import RoutingTable
from muai_core.planning.wording import described, one_line
from muai_core.runtime import assembly, device_views, explain, status
from muai_core.runtime.control_api import ControlApi
from muai_core.runtime.executor import Executor
from muai_core.runtime.inbox import Inbox
from muai_core.runtime.instance import Instance, using
from muai_core.runtime.journal import Journal
from muai_core.runtime.launches import Launches
from muai_core.runtime.log_watch import LogWatch
from muai_core.runtime.measured_starts import MeasuredStarts
from muai_core.runtime.memory_return import MemoryReturn
from muai_core.runtime.monitor import DeviceMonitor
from muai_core.runtime.narrator import Narrator
from muai_core.runtime.orphans import reclaim_orphans
from muai_core.runtime.progress import ProgressPoller
from muai_core.runtime.resolution import resolve
from muai_core.runtime.self_tests import SelfTests
from muai_core.runtime.sinks import SinkRunners
from muai_core.runtime.start_memory import StartMemory
from muai_core.runtime.supervisor import Supervisor
from muai_core.telemetry import collect
from muai_core.telemetry.devices import DeviceCollector, device_facts
from muai_core.telemetry.memory import memory_families
from muai_core.telemetry.meters import ControllerMeter, GatewayMeter
from muai_core.telemetry.passed_on import PassedOn
from muai_core.telemetry.registry import Registry

_log = logging.getLogger(__name__)

#: How long the first look at the devices may take before the start goes on without the rest.
_FIRST_LOOK_S = 15.0
_PUBLISH_METRICS_S = 1.0
#: How old a device's last sample may become before its metrics end.
_STALE_AFTER_INTERVALS = 3.0


class Controller:
    """One running MuAI, from a checked config to the last stopped process."""

    def __init__(
        self,
        loaded: LoadedConfig,
        instance: Instance,
        python: str,
        narrator: Narrator,
    ) -> None:
        """`python` is the interpreter for engines whose config names none."""
        self._loaded = loaded
        self._instance = instance
        self._python = python
        self._narrator = narrator
        self._started_s = time.monotonic()
        self._inbox = Inbox()
        self._registry = Registry()
        self._meter = ControllerMeter(self._registry)
        self._gateway_meter = GatewayMeter(self._registry)
        self._device_collector = DeviceCollector(
            stale_after_s=_STALE_AFTER_INTERVALS * loaded.config.devices.observe_interval_s
        )
        self._passed_on = PassedOn()
        #: True once the gateway listens and `stop` has something to stop.
        self.started = False
        self._stopping = False
        self._killed = False
        self._tasks: list[asyncio.Task[None]] = []

    def clock(self) -> float:
        """Seconds since this controller was made; never runs backwards."""
        return time.monotonic() - self._started_s

    @property
    def address(self) -> str:
        """The gateway's base URL, once it listens."""
        host = self.gateway.settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.gateway.port}"

    def sink_locations(self) -> dict[str, str]:
        """Where to look at the metrics, by sink, for the sinks that have such a place."""
        places = {}
        for sink, _ in assembly.metric_sinks(self._loaded):
            try:
                place = sink.location()
            except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                _log.warning("sink %s does not say where it is: %s", sink.name, described(error))
                continue
            if isinstance(place, str):
                places[sink.name] = one_line(place)
        return places

    async def run(self, on_started: Callable[[], None]) -> None:
        """Serve until `stop`, then leave nothing behind.

        `on_started` is called once the gateway listens. Raises ConfigError, SinkError,
        GatewaySettingsError or StateDirectoryError when the start is impossible; nothing is left
        running then.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self._reclaim_orphans()
            self.monitor = DeviceMonitor(
                assembly.device_sources(self._loaded),
                self._loaded.config.devices.observe_interval_s,
                self.clock,
                self._inbox.put,
                timed=self._meter.observed,
            )
            stack.push_async_callback(self.monitor.close)
            self.monitor.start()
            for name in await self.monitor.first_answers(_FIRST_LOOK_S):
                self._narrator.tell(
                    "bad", f"device source {name}: silent for {_FIRST_LOOK_S:g} s; going on without"
                )
            for line in self.monitor.absences():
                self._narrator.tell("info", line)
            measured = MeasuredStarts.load(
                self._instance.state_dir, lambda words: self._narrator.tell("bad", words)
            )
            facts = self._inbox.peek()
            calibrator = measured.calibrator(assembly.device_names_in(facts))
            self._resolved = resolve(self._loaded, assembly.platforms_in(facts), calibrator)
            self.plane = assembly.make_plane(self._loaded, self._resolved)
            with using(self._instance.state_dir):
                self.journal = self._open_journal()
            stack.callback(self.journal.close)
            self.sinks = SinkRunners(assembly.metric_sinks(self._loaded))
            stack.push_async_callback(self._off_loop, self.sinks.close)
            await asyncio.to_thread(self.sinks.open)
            self.gateway = Gateway(
                assembly.gateway_settings(self._loaded),
                observer=self._gateway_meter,
                health=self._health,
                tracing=assembly.tracing(self.sinks),
            )
            await self.gateway.start()
            stack.push_async_callback(self.gateway.stop)
            self.supervisor = Supervisor(
                self._instance, self._inbox.put, deadlines=assembly.stage_deadlines(self._loaded)
            )
            stack.push_async_callback(self._end_supervisor)
            self.start_memory = StartMemory(
                self.supervisor,
                measured,
                calibrator.bases,
                lambda words: self._narrator.tell("info", words),
                settled_after_s=self._loaded.config.devices.observe_interval_s,
            )
            stack.push_async_callback(self.start_memory.close)
            self.log_watch = LogWatch(self.supervisor.logs, self._inbox.put)
            stack.push_async_callback(self.log_watch.close)
            self.log_watch.start()
            self.self_tests = SelfTests(
                assembly.device_sources_by_name(self._loaded),
                self._instance.id,
                self._inbox.put,
                self.clock,
            )
            stack.push_async_callback(self._end_self_tests)
            self.launches = Launches()
            self.progress = ProgressPoller(self.launches)
            stack.push_async_callback(self.progress.close)
            self.executor = Executor(
                self.supervisor,
                self.gateway,
                assembly.engine_runner(self._loaded, self._python, self.launches),
                self._publish,
                self._inbox.put,
                self.clock,
                MemoryReturn(self.monitor, self.clock),
                self.self_tests,
            )
            stack.push_async_callback(self.executor.close)
            api = ControlApi(
                self._instance.state_dir,
                self._status,
                self._explain,
                self._stop_as_asked,
                devices=self._devices,
                reinstate=self._reinstate,
                snapshot=self.plane.snapshot,
            )
            with using(self._instance.state_dir):
                await api.start()
            stack.push_async_callback(api.close)
            self._inbox.put(ev.DeploymentsDesired(deployments=self._resolved.deployments))
            stack.push_async_callback(self._end_tasks)
            self._go(self._observe_replicas())
            self._go(self._publish_metrics())
            self.started = True
            on_started()
            await self._loop()

    def stop(self) -> None:
        """Drain and stop everything; `run` returns when it is done. May be repeated."""
        if self._stopping:
            return
        self._stopping = True
        self._inbox.put(ev.ShutdownRequested())
        self._go(self.gateway.stop(self._loaded.config.recovery.drain_s))

    def kill(self) -> None:
        """End every engine at once, whatever it is doing; `run` returns right after."""
        self._killed = True
        self._narrator.killing()
        left = self.supervisor.kill_all()
        for words in left:
            _log.error("still alive after SIGKILL: %s", words)
        self._inbox.put(ev.ShutdownRequested())

    # --- the loop -------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while not self._done():
            due_s = self.plane.next_wakeup()
            timeout_s = None if due_s is None else max(0.0, due_s - self.clock())
            self._step(await self._inbox.take(timeout_s))

    def _done(self) -> bool:
        return self._killed or (self.plane.state.shutting_down and not self.plane.state.replicas)

    def _step(self, events: Sequence[ev.Event]) -> None:
        now_s, events = self.journal.append(self.clock(), events)
        began_s = time.perf_counter()
        actions = self.plane.step(now_s, events)
        self._meter.stepped(now_s, time.perf_counter() - began_s, events, actions)
        for action in actions:
            self.executor.execute(action)
        self._narrator.follow(self.plane.state, events, actions)
        self.start_memory.follow(self.plane.state, events, actions, now_s)

    def _open_journal(self) -> Journal:
        config = self._loaded.config
        zero_at = datetime.now().astimezone() - timedelta(seconds=self.clock())
        return Journal.open(
            self._instance.state_dir / "journal.jsonl",
            self.plane,
            version=muai_core.__version__,
            zero_at=zero_at.isoformat(),
            plugins=[self._loaded.path(text) for text in config.plugins],
            report=lambda words: self._narrator.tell("bad", words),
        )

    async def _reclaim_orphans(self) -> None:
        """End what an earlier controller left behind, before its memory counts as foreign."""
        orphans = await asyncio.to_thread(
            reclaim_orphans, self._instance.state_dir, self._instance.id
        )
        for orphan in orphans:
            self._narrator.tell("bad" if orphan.survivors else "info", orphan.words)

    def _publish(self, table: RoutingTable) -> None:
        self._gateway_meter.routes_published(table)
        self.gateway.publish(table)

    def _health(self) -> dict[str, Any]:
        return {
            "controller": {
                "version": muai_core.__version__,
                "uptime_s": round(self.clock(), 3),
                "stopping": self._stopping,
                "requests_in_flight": sum(self._in_flight().values()),
            },
            "devices": device_views.health_view(self.plane.state),
        }

    # --- what others see ------------------------------------------------------------------------

    def _surroundings(self) -> status.Surroundings:
        return status.Surroundings(
            version=muai_core.__version__,
            pid=os.getpid(),
            started_at_s=0.0,
            gateway_address=self.address,
            in_flight=self._in_flight(),
            memory=self.start_memory.incarnations(),
            sinks=self.sinks.statuses(),
            journal=self.journal.state,
            plugins=self._loaded.plugins.records,
            choices=self._resolved.choices,
        )

    def _status(self) -> dict[str, Any]:
        return status.status_view(self.plane.state, self._surroundings(), self.clock())

    def _explain(self, model: str) -> dict[str, Any] | None:
        return explain.explain_view(
            self.plane.state, model, self._resolved.choices.get(model, ()), self.clock()
        )

    def _devices(self) -> dict[str, Any]:
        return device_views.devices_report(
            self.plane.state, self.clock(), self.monitor.measurements, self.monitor.absences()
        )

    def _reinstate(self, uuid: str) -> None:
        self._inbox.put(ev.DeviceReinstated(uuid=uuid))

    def _stop_as_asked(self, now: bool) -> None:
        self.stop()
        if now:
            self.kill()

    # --- beside the loop ------------------------------------------------------------------------

    def _go(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _observe_replicas(self) -> None:
        """Tell the plane regularly what runs, in case an exit was not reported."""
        while True:
            await asyncio.sleep(self._loaded.config.devices.observe_interval_s)
            observed_at_s = self.clock()
            self._inbox.put(
                ev.ReplicasObserved(
                    observed_at_s=observed_at_s, sightings=self.supervisor.sightings()
                )
            )

    async def _publish_metrics(self) -> None:
        while True:
            try:
                self.launches.keep(self.plane.state.replicas)
                routes = self.plane.state.routes.routes
                await self.progress.poll(routes, with_metrics=bool(self.sinks))
                self.sinks.offer(await self._families())
            except Exception:  # noqa: BLE001 - whatever it was, it is logged
                # Metrics that cannot be made must not end those of the next second.
                _log.exception("metrics could not be collected")
            await asyncio.sleep(_PUBLISH_METRICS_S)

    async def _families(self) -> tuple[Any, ...]:
        now_s = self.clock()
        facts = device_facts(
            self.plane.state, self.monitor.measurements, now_s, time.time() - now_s
        )
        # A thousand GPUs have seventy thousand series: too many to make on the loop.
        devices = await asyncio.to_thread(self._device_collector.collect, facts)
        engines = await asyncio.to_thread(
            self._passed_on.families, tuple(self.progress.metrics.values())
        )
        return (
            *collect.controller_families(
                muai_core.__version__, self.clock(), self.journal.state.size_bytes
            ),
            *collect.sink_families(self.sinks.batches_dropped(), self.sinks.requests_dropped()),
            *collect.state_families(self.plane.state, self._in_flight(), self.progress.latest),
            *memory_families(self.start_memory.rows()),
            *devices,
            *self._registry.collect(),
            *engines,
        )

    def _in_flight(self) -> dict[tuple[str, int], int]:
        return {(load.replica_id, load.epoch): load.outstanding for load in self.gateway.loads()}

    # --- the end --------------------------------------------------------------------------------

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                _log.error("a task of the controller failed", exc_info=result)

    async def _end_supervisor(self) -> None:
        left = await self.supervisor.close()
        for words in left:
            _log.error("left behind: %s", words)

    async def _end_self_tests(self) -> None:
        left = await self.self_tests.close()
        for words in left:
            _log.error("left behind by a self-test: %s", words)

    async def _off_loop(self, work: Callable[[], object]) -> None:
        await asyncio.to_thread(work)
