"""What one event costs the control plane, by the size of the fleet.

    python benchmarks/control_plane.py [--events 4000] [--sizes 100,1000,10000]

Nodes of eight GPUs, each deployment wants twenty replicas of two GPUs, and 80 % of the fleet is in
use. Replicas crash at random and come back through every stage (exit, release, backoff, placement,
spawn, progress, ready); each event is one step. Prints a table in Markdown.
"""

import argparse
import random
import time
from collections import deque
from collections.abc import Iterator

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.planning.balanced import Balanced

GIB = 1024**3


class Fleet:
    """A plane with everything ready, and the world's next answers."""

    def __init__(self, gpus: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_s = 0.0
        settings = ControlSettings(backoff_initial_s=0.05, backoff_max_s=0.1)
        self.plane = ControlPlane(settings, Balanced(), Ladder())
        self.devices = tuple(
            Device(
                uuid=f"GPU-{number:06}",
                node=f"node-{number // 8:04}",
                index=number % 8,
                kind="gpu",
                platform="cuda",
                name="H100",
                memory_total_bytes=80 * GIB,
                island=f"island-{number // 8}",
            )
            for number in range(gpus)
        )
        self.answers: deque[ev.Event] = deque()
        self.step(self.inventory())
        self.step(ev.DeploymentsDesired(deployments=tuple(self.deployments(gpus))))
        while self.answers:
            self.step(self.answers.popleft())

    def deployments(self, gpus: int) -> Iterator[Deployment]:
        for number in range(max(1, gpus // 50)):
            yield Deployment(
                name=f"model-{number}",
                source="weights",
                engine="vllm",
                replicas=20,
                tensor_parallel_size=2,
                platforms=("cuda",),
                memory_bytes_per_device=60 * GIB,
            )

    def inventory(self) -> ev.DevicesObserved:
        return ev.DevicesObserved(
            inventory=Inventory(
                source="gpus",
                observed_at_s=self.now_s,
                devices=self.devices,
                readings=tuple(
                    DeviceReading(uuid=device.uuid, temperature_celsius=self.chance.uniform(40, 80))
                    for device in self.devices
                ),
            )
        )

    def sightings(self) -> ev.ReplicasObserved:
        return ev.ReplicasObserved(
            observed_at_s=self.now_s,
            sightings=tuple(
                ev.ReplicaSighting(replica.id, replica.epoch)
                for replica in self.plane.state.replicas.values()
                if replica.pid is not None
            ),
        )

    def step(self, *events: ev.Event) -> float:
        """One step; how long it took, in seconds."""
        self.now_s += 0.01
        began_s = time.perf_counter()
        actions = self.plane.step(self.now_s, events)
        took_s = time.perf_counter() - began_s
        for action in actions:
            if isinstance(action, act.ReplicaIntent):
                self.answers.extend(_answers(action))
        return took_s

    def next_event(self) -> ev.Event:
        if self.answers:
            return self.answers.popleft()
        ready = [r for r in self.plane.state.replicas.values() if r.state is ReplicaState.READY]
        one = self.chance.choice(ready)
        return ev.ReplicaExited(replica_id=one.id, epoch=one.epoch, cause="killed by signal 9")


def _answers(action: act.ReplicaIntent) -> Iterator[ev.Event]:
    about = {"replica_id": action.replica_id, "epoch": action.epoch}
    match action:
        case act.StartReplica():
            yield ev.ReplicaSpawned(**about, pid=4711)
            for percent in range(0, 100, 20):
                yield ev.ReplicaProgressed(**about, stage="load", detail=f"{percent} %")
            yield ev.ReplicaReady(**about, endpoint="http://127.0.0.1:4000")
        case act.DrainReplica():
            yield ev.ReplicaDrained(**about)
        case act.StopReplica():
            yield ev.ReplicaExited(**about, cause="stopped")
        case act.ConfirmRelease():
            yield ev.ReplicaReleased(**about)


def measure(gpus: int, events: int) -> dict[str, float]:
    """Times in microseconds."""
    fleet = Fleet(gpus, seed=gpus)
    steps = []
    kinds: dict[str, list[float]] = {}
    for _ in range(events):
        event = fleet.next_event()
        took_s = fleet.step(event)
        steps.append(took_s)
        kinds.setdefault(type(event).__name__, []).append(took_s)
    steps.sort()
    inventories = [fleet.step(fleet.inventory()) for _ in range(5)]
    sightings = [fleet.step(fleet.sightings()) for _ in range(5)]
    began_s = time.perf_counter()
    fleet.plane.digest()
    digest_s = time.perf_counter() - began_s
    by_kind = {kind: sum(took) / len(took) * 1e6 for kind, took in sorted(kinds.items())}
    return {
        "mean": sum(steps) / len(steps) * 1e6,
        "p50": steps[len(steps) // 2] * 1e6,
        "p99": steps[int(len(steps) * 0.99)] * 1e6,
        "max": steps[-1] * 1e6,
        "inventory": min(inventories) * 1e6,
        "processes": min(sightings) * 1e6,
        "digest": digest_s * 1e6,
        **by_kind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--sizes", default="100,1000,10000")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    results = {size: measure(size, arguments.events) for size in sizes}
    print("| µs per step | " + " | ".join(f"{size:,} GPUs" for size in sizes) + " | growth |")
    print("| --- |" + " ---: |" * (len(sizes) + 1))
    for row in results[sizes[0]]:
        values = [results[size].get(row, 0.0) for size in sizes]
        growth = values[-1] / values[0]
        print(f"| {row} | " + " | ".join(f"{v:,.1f}" for v in values) + f" | {growth:,.1f} × |")


if __name__ == "__main__":
    main()
