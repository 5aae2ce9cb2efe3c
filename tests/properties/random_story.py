"""Prints the digest after a long random story; run under several PYTHONHASHSEEDs by the test."""

import random
import sys

from muai_core.control import actions as act
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.control.transcript import parse_event
from muai_core.planning.balanced import Balanced

FLEETS = [
    "a(30GiB, replicas=3) b(20GiB, replicas=2, tensor_parallel_size=2) c d(10GiB)",
    "d(10GiB, replicas=4) a(60GiB, replicas=2) c e(5GiB, replicas=6)",
    "b(20GiB, replicas=1, pipeline_parallel_size=2) a(30GiB)",
]
ABOUT = {
    act.StartReplica: ["ReplicaSpawned {} pid 9", "ReplicaReady {} at http://h:1"] * 3
    + ["ReplicaStartFailed {}: no", "ReplicaExited {}: gone"],
    act.DrainReplica: ["ReplicaDrained {}"],
    act.StopReplica: ["ReplicaExited {}: stopped"],
    act.ConfirmRelease: ["ReplicaReleased {}"] * 3 + ["ReplicaExited {}: again"],
}


def main(seed: int, steps: int) -> None:
    chance = random.Random(seed)
    plane = ControlPlane(ControlSettings(start_deadline_s=50.0), Balanced(), Ladder())
    now_s, lines, asked = 0.0, [f"DeploymentsDesired {FLEETS[0]}"], []
    for number in range(steps):
        now_s += chance.choice([0.0, 0.1, 1.0, 5.0])
        if number % 40 == 0:
            there = [i for i in range(16) if chance.random() < 0.9]
            listed = " ".join(f"gpu{i}(80GiB, node=n{i // 8})" for i in there)
            lines.append(f"DevicesObserved gpus at {now_s:.3f}: {listed}")
        if number % 150 == 149:
            lines.append(f"DeploymentsDesired {chance.choice(FLEETS)}")
        chance.shuffle(asked)
        for _ in range(min(len(asked), chance.randint(0, 3))):
            action = asked.pop()
            text = chance.choice(ABOUT[type(action)])
            lines.append(text.format(f"{action.replica_id}/{action.epoch}"))
        actions = plane.step(now_s, [parse_event(line) for line in lines])
        asked += [action for action in actions if isinstance(action, act.ReplicaIntent)]
        lines = []
    print(plane.digest(), sum(plane.state.applied.values()))


main(int(sys.argv[1]), int(sys.argv[2]))
