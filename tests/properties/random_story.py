"""Prints the digest after a long random story; run under several PYTHONHASHSEEDs by the test."""

import random
import sys

from muai_core.control import actions as act
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings, HealthSettings
from muai_core.control.transcript import parse_event
from muai_core.planning.balanced import Balanced

HAPPENINGS = [
    "xid:79 failed reboot repaired: off the bus -> reboot",
    "xid:94 suspect checked: contained",
    "xid:31 healthy limit 2: MMU fault",
    "xid:92 degraded: many corrected errors",
]
CONDITIONS = ["thermal=degraded", "recovery_action:2=failed reboot repaired", "unknown"]
CHECKS = ["passed", "passed", "inconclusive: no library", "failed memory failed checked: wrong"]
FLEETS = [
    "a(30GiB, replicas=3) b(20GiB, replicas=2, tensor_parallel_size=2) c d(10GiB)",
    "d(10GiB, replicas=4) a(60GiB, replicas=2) c e(5GiB, replicas=6)",
    "b(20GiB, replicas=1, pipeline_parallel_size=2) a(30GiB)",
]
ABOUT = {
    act.StartReplica: ["ReplicaSpawned {} pid 9", "ReplicaReady {} at http://h:1"] * 3
    + ["ReplicaStartFailed {}: no", "ReplicaExited {}: CUDA error: unknown error"],
    act.DrainReplica: ["ReplicaDrained {}"],
    act.StopReplica: ["ReplicaExited {}: stopped"],
    act.ConfirmRelease: ["ReplicaReleased {}"] * 3 + ["ReplicaExited {}: again"],
}


def main(seed: int, steps: int) -> None:
    chance = random.Random(seed)
    health = HealthSettings(self_test="idle")
    plane = ControlPlane(
        ControlSettings(start_deadline_s=50.0, health=health), Balanced(), Ladder()
    )
    now_s, lines, asked = 0.0, [f"DeploymentsDesired {FLEETS[0]}"], []
    for number in range(steps):
        now_s += chance.choice([0.0, 0.1, 1.0, 5.0])
        if number % 40 == 0:
            there = [i for i in range(16) if chance.random() < 0.9]
            ill = {i: f", {chance.choice(CONDITIONS)}" for i in there if chance.random() < 0.1}
            listed = " ".join(f"gpu{i}(80GiB, node=n{i // 8}{ill.get(i, '')})" for i in there)
            fault = " fault no_driver (gone -> load it)" if chance.random() < 0.1 else ""
            lines.append(f"DevicesObserved gpus at {now_s:.3f}{fault}: {listed}")
        if number % 30 == 17:
            where, what = chance.randrange(16), chance.choice(HAPPENINGS)
            lines.append(f"DeviceFaulted gpus gpu{where} at {now_s - 0.1:.3f}: {what}")
        if number % 90 == 89:
            lines.append(f"DeviceReinstated gpu{chance.randrange(16)}")
        if number % 150 == 149:
            lines.append(f"DeploymentsDesired {chance.choice(FLEETS)}")
        chance.shuffle(asked)
        for _ in range(min(len(asked), chance.randint(0, 3))):
            action = asked.pop()
            if isinstance(action, act.CheckDevice):
                verdict = chance.choice(CHECKS)
                lines.append(f"DeviceChecked {action.device.uuid} check {action.check}: {verdict}")
                continue
            text = chance.choice(ABOUT[type(action)])
            lines.append(text.format(f"{action.replica_id}/{action.epoch}"))
        actions = plane.step(now_s, [parse_event(line) for line in lines])
        asked += [
            action for action in actions if isinstance(action, act.ReplicaIntent | act.CheckDevice)
        ]
        lines = []
    print(plane.digest(), sum(plane.state.applied.values()))


main(int(sys.argv[1]), int(sys.argv[2]))
