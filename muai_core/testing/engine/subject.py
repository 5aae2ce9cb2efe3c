"""An engine under test, with what its clauses need to start and to ask replicas of it.

Real engines start slowly, so most clauses share one replica, and a second one beside it. Clauses
run in the order of their numbers: those that end a replica come last. Each works on its own, too:
what it needs is started when it is first asked for.
"""

import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading
from muai_core.model.memory import Shape
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Engine, LaunchSpec
from muai_core.runtime.bring_up import StageDeadlines
from muai_core.runtime.cpu_source import CpuSource
from muai_core.runtime.process import Release
from muai_core.testing import registration
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped
from muai_core.testing.engine.bench import Bench, Replica, reshaped
from muai_core.testing.engine.client import Client, Reply
from muai_core.testing.engine.loading import ready_and_watched
from muai_core.testing.engine.outcomes import Limits, LoadingLook, Started, Stopped
from muai_core.testing.engine.planned import placement_of, with_memory
from muai_core.testing.engine.remains import Identity, Orphanage, Remains

ResultT = TypeVar("ResultT")

#: Every replica is asked this first, once it is said to be ready.
FIRST_BODY = {"prompt": "Good morning", "max_tokens": 1, "temperature": 0}
#: Asked in every shape.
PROMPTS = ("The ship left the harbor", "Two and two", "Once upon a time")
#: No load is done so soon.
CUT_SHORT_S = 0.05


class EngineSubject:
    """One engine and one deployment. Use it on the main thread, and close it."""

    def __init__(
        self,
        engine: Engine,
        deployment: Deployment | None,
        *,
        folder: Path,
        devices: tuple[Device, ...] = (),
        device_source: DeviceSource | None = None,
        shapes: tuple[Shape, ...] = (),
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        plugin_module: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`deployment` None: the clauses that need a model are not applicable. `folder` is for
        logs and broken copies of the model; no `devices`: the CPU of this machine.
        """
        self.engine = engine
        self.folder = folder
        self.shapes = shapes
        self.limits = limits or Limits()
        self._deployment = deployment
        self._planned: Deployment | None = None
        self._devices = devices or CpuSource().observe(0.0).devices
        self._source = device_source
        self.python = python
        self._environment = dict(environment or {})
        #: Where the plugin's hooks are, or at least the engine itself.
        self.plugin_module = plugin_module or registration.plugin_module_of(engine)
        self._orphanage: Orphanage | None = None
        self._benches: dict[float, Bench] = {}
        self._live: list[Started] = []
        self._first: Started | ClauseFailure | None = None
        self._second: Started | None = None
        self._second_shape: Shape | None = None
        self._first_stopped: Stopped | None = None
        self._texts: dict[Shape, tuple[str, ...]] = {}

    @property
    def capabilities(self) -> tuple[str, ...]:
        return self.engine.capabilities

    @property
    def deployment(self) -> Deployment:
        """With its need for memory, as planned. Raises ClauseSkipped without one."""
        if self._deployment is None:
            raise ClauseSkipped("no model to serve was given")
        if self._planned is None:
            self._planned = with_memory(self.engine, self._deployment)
        return self._planned

    @property
    def devices(self) -> tuple[Device, ...]:
        return self._devices

    @property
    def device_source(self) -> DeviceSource | None:
        return self._source

    # The shared replica, and a second one beside it

    def first(self) -> Started:
        """The shared replica, ready. Raises ClauseSkipped when it did not start (`why_not`)."""
        if isinstance(self._first, Started) and self._first.replica.ended is not None:
            # A clause has cost it; the next ones get another.
            self._live = [one for one in self._live if one is not self._first]
            self._first = None
        if self._first is None:
            try:
                self._first = self.start_ready(watch=True)
            except ClauseFailure as failure:
                self._first = failure
        if isinstance(self._first, ClauseFailure):
            raise ClauseSkipped("no replica started, see the clause on getting ready")
        return self._first

    def why_not(self) -> ClauseFailure | None:
        """Why the shared replica did not start."""
        try:
            self.first()
        except ClauseSkipped:
            if isinstance(self._first, ClauseFailure):
                return self._first
            raise
        return None

    def second(self, shape: Shape | None = None) -> Started:
        """Another one: at the side of the first where that still runs. Raises ClauseFailure.

        Without a shape it is whichever there is, else one of the deployment's own.
        """
        second = self._second
        if second is not None and second.replica.ended is not None:
            second = None
        if second is not None and shape not in (None, self._second_shape):
            self.stop(second)
            second = None
        if second is None:
            self._second_shape = shape or _shape_of(self.deployment)
            deployment = self.shaped(self._second_shape)
            second = self.start_ready(deployment, devices=self._spare_devices(deployment))
        self._second = second
        return second

    def expendable(self) -> Started:
        """A second one that the clause may end. Raises ClauseFailure.

        Where answers in some shape are still to be read it has that shape, and they are read
        first: a real engine takes long to start.
        """
        for shape in self.shapes:
            if shape not in self._texts:
                self.texts_in(shape)
                break
        return self.second()

    def first_stopped(self) -> Stopped:
        """Stops the first one, once, and says how that went."""
        if self._first_stopped is None:
            started = self.first()
            if self.shapes:
                self.texts()
            shared = {device.uuid for device in started.replica.devices}
            beside = self._second
            if (
                beside is not None
                and self._source is not None
                and shared & {device.uuid for device in beside.replica.devices}
            ):
                # Whose memory is back could not be told.
                self.stop(beside)
                self._second = None
            self._first_stopped = self.stop(started)
        return self._first_stopped

    def alone(self) -> None:
        """Stops whatever runs."""
        for started in list(self._live):
            self.stop(started)
        self._first = None if isinstance(self._first, Started) else self._first
        self._second = None

    def texts(self) -> tuple[str, ...]:
        """The greedy answers to PROMPTS in the deployment's own shape."""
        shape = _shape_of(self.deployment)
        if shape not in self._texts:
            started = self._first if isinstance(self._first, Started) else None
            if started is None or not started.replica.serves:
                return self.texts_in(shape)
            self._texts[shape] = self.greedy_texts(started)
        return self._texts[shape]

    def texts_in(self, shape: Shape) -> tuple[str, ...]:
        """The greedy answers to PROMPTS in that shape. Raises ClauseFailure."""
        if shape not in self._texts:
            self._texts[shape] = self.greedy_texts(self.second(shape))
        return self._texts[shape]

    def greedy_texts(self, started: Started) -> tuple[str, ...]:
        async def ask(client: Client) -> tuple[str, ...]:
            return tuple([(await client.complete(prompt)).text for prompt in PROMPTS])

        return self.ask(started, ask)

    # One replica

    def start(
        self,
        deployment: Deployment | None = None,
        *,
        devices: tuple[Device, ...] | None = None,
        port: int | None = None,
        bench: Bench | None = None,
        adapt: Callable[[LaunchSpec], LaunchSpec] | None = None,
    ) -> tuple[Replica, Remains]:
        """Orders a start; `bench.run` lets it proceed."""
        wanted = deployment or self.deployment
        count = wanted.tensor_parallel_size * wanted.pipeline_parallel_size
        chosen = devices if devices is not None else self.some_devices(count)
        if self._orphanage is None:
            self._orphanage = Orphanage()
        remains = Remains()
        placement = placement_of(chosen, wanted)
        chosen_bench = bench or self.bench()
        return chosen_bench.start(wanted, placement, chosen, port=port, adapt=adapt), remains

    def start_ready(
        self,
        deployment: Deployment | None = None,
        *,
        devices: tuple[Device, ...] | None = None,
        watch: bool = False,
    ) -> Started:
        """One more replica that serves. Raises ClauseFailure when it does not get there."""
        used_bytes = {device.uuid: self.used_bytes(device.uuid) for device in self._devices}
        replica, remains = self.start(deployment, devices=devices)
        bench = self.bench()
        looks: list[LoadingLook] = []

        async def bring_up() -> Reply:
            await ready_and_watched(bench, replica, self.limits, looks if watch else None)
            async with self._client(replica) as client:
                return await client.post("/v1/completions", FIRST_BODY)

        try:
            first = bench.run(bring_up())
        except ClauseFailure:
            bench.run(bench.stop(replica, 0))
            remains.sweep(self.identities())
            raise
        started = Started(
            replica=replica,
            remains=remains,
            first=first,
            looks=tuple(looks),
            used_bytes=used_bytes,
        )
        self._live.append(started)
        self.note(started)
        return started

    def note(self, started: Started) -> None:
        """Remembers what the replica consists of now."""
        replica = started.replica
        assert replica.pid is not None
        others = self.identities(beside=started)
        started.remains.note(replica.pid, replica.marker, replica.launch, others)

    def ask(self, started: Started, work: Callable[[Client], Awaitable[ResultT]]) -> ResultT:
        """The result of `work` with a client of that replica. Raises what it raises."""

        async def asking() -> ResultT:
            async with self._client(started.replica) as client:
                return await work(client)

        return self.bench().run(asking())

    def ask_first(self, work: Callable[[Client], Awaitable[ResultT]]) -> ResultT:
        """The same with the shared replica."""
        return self.ask(self.first(), work)

    def stop(self, started: Started, grace_s: float | None = None) -> Stopped:
        """Stops a replica and looks at what it left, which is then removed."""
        if started.replica.ended is None:
            self.note(started)
        grace = self.limits.stop_grace_s if grace_s is None else grace_s
        release = self.bench().run(self.bench().stop(started.replica, grace))
        return self._left(started, release)

    def ended(self, started: Started) -> Stopped:
        """What a replica that ended unasked left, which is then removed."""
        release = self.bench().run(self.bench().gone(started.replica))
        return self._left(started, release)

    def _left(self, started: Started, release: Release) -> Stopped:
        if started in self._live:
            self._live.remove(started)
        others = self.identities()
        stopped = Stopped(
            end=started.replica.ended,
            release=release,
            processes=tuple(started.remains.processes(others)),
            shared_memory=tuple(started.remains.shared_memory()),
            used_bytes={
                device.uuid: started.used_bytes[device.uuid] for device in started.replica.devices
            },
        )
        started.remains.sweep(others)
        return stopped

    def identities(self, beside: Started | None = None) -> set[Identity]:
        """The processes of all replicas that are to go on, beside the given one."""
        return {
            identity
            for started in self._live
            if started is not beside
            for identity in started.remains.members | started.remains.adopted
        }

    # The surroundings

    def bench(self) -> Bench:
        """Starts have all the time that the limits give them."""
        return self._bench(self.limits.start_s)

    def hurried_bench(self) -> Bench:
        """The load of a start may take no time here."""
        return self._bench(CUT_SHORT_S)

    def some_devices(self, count: int) -> tuple[Device, ...]:
        """So many devices, one for each rank; a CPU is shared. Raises ClauseSkipped."""
        if self._devices[0].kind == "cpu":
            return (self._devices[0],) * count
        if count > len(self._devices):
            raise ClauseSkipped(f"it needs {count} devices, {len(self._devices)} were given")
        return self._devices[:count]

    def used_bytes(self, uuid: str) -> int | None:
        """Memory in use on a device, as the source says it; None: nobody tells."""
        found = self.readings().get(uuid)
        return found.memory_used_bytes if found is not None else None

    def readings(self) -> dict[str, DeviceReading]:
        if self._source is None:
            return {}
        readings = self._source.observe(time.monotonic()).readings
        return {reading.uuid: reading for reading in readings}

    def shaped(self, shape: Shape) -> Deployment:
        return reshaped(self.deployment, shape.tensor_parallel_size, shape.pipeline_parallel_size)

    def with_source(self, source: str) -> Deployment:
        return structs.replace(self.deployment, source=source)

    def close(self) -> None:
        """Ends what runs and removes what was left. Once."""
        self.alone()
        for bench in self._benches.values():
            bench.close(self.limits.stop_grace_s)
        if self._orphanage is not None:
            self._orphanage.close()

    def _bench(self, load_s: float) -> Bench:
        if load_s not in self._benches:
            start_s = self.limits.start_s
            self._benches[load_s] = Bench(
                self.engine,
                folder=self.folder / f"bench-{len(self._benches)}",
                python=self.python,
                environment=self._environment,
                deadlines=StageDeadlines(spawn_s=start_s, load_s=load_s, ready_s=start_s),
            )
        return self._benches[load_s]

    def _client(self, replica: Replica) -> Client:
        assert replica.launch is not None
        return Client(replica.launch, timeout_s=self.limits.answer_s)

    def _spare_devices(self, deployment: Deployment) -> tuple[Device, ...]:
        """Devices that the first replica has not, where there are enough; else the same."""
        taken = self.deployment.tensor_parallel_size * self.deployment.pipeline_parallel_size
        count = deployment.tensor_parallel_size * deployment.pipeline_parallel_size
        spare = self._devices[taken:] if self._devices[0].kind != "cpu" else ()
        return spare[:count] if len(spare) >= count else self.some_devices(count)


def _shape_of(deployment: Deployment) -> Shape:
    return Shape(deployment.tensor_parallel_size, deployment.pipeline_parallel_size)
