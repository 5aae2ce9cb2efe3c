"""What `muai run` tells on the way: each step of a replica's life, each device that is unwell."""

from collections.abc import Callable, Iterable

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import State
from muai_core.model.device import Device
from muai_core.model.health import Health
from muai_core.planning.wording import one_line

#: Told a severity (info, good, bad) and a line.
Tell = Callable[[str, str], None]


class Narrator:
    """Follows events and actions and tells what changed, without repeating itself."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self._last: dict[str, str] = {}
        self._blocked: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        #: UUID → the name of a device that is unwell, and how it was told.
        self._unwell: dict[str, tuple[str, str]] = {}
        self._rejections_told: set[str] = set()
        self._ending = False

    def killing(self) -> None:
        """Call it when the engines are to end at once."""
        self._ending = True
        self.tell("bad", "killing every engine")

    def follow(
        self, state: State, events: Iterable[ev.Event], actions: Iterable[act.Action]
    ) -> None:
        """Call it after each step, with what went in and what came out."""
        for event in events:
            self._event(state, event)
        for action in actions:
            self._action(action)
        self._tell_devices(state)
        self._tell_blocked(state)
        self._tell_rejected(state)

    def _event(self, state: State, event: ev.Event) -> None:
        match event:
            case ev.ReplicaProgressed():
                # At the stage `ready` it has yet to answer its first request.
                stage = "loaded" if event.stage == "ready" else event.stage
                detail = f": {event.detail}" if event.detail else ""
                self._once(event.replica_id, "info", f"{stage}{detail}")
            case ev.ReplicaReady():
                self._once(event.replica_id, "good", f"ready at {event.endpoint}")
            case ev.ReplicaStartFailed() | ev.ReplicaExited():
                self._lost(state, event)
            case ev.DeviceSourceFailed():
                if self._sources.get(event.source) != event.reason:
                    self._sources[event.source] = event.reason
                    self.tell("bad", f"device source {event.source}: {event.reason}")
            case ev.ShutdownRequested():
                if not self._ending:
                    self.tell("info", "stopping: requests in flight may finish")
                self._ending = True

    def _lost(self, state: State, event: ev.ReplicaStartFailed | ev.ReplicaExited) -> None:
        replica = state.replicas.get(event.replica_id)
        if replica is None or replica.epoch != event.epoch or replica.retiring:
            self._once(event.replica_id, "info", "stopped")
            return
        again = "not started again"
        if replica.retry_at_s is not None and replica.loss is not None:
            again = f"starts again in {replica.retry_at_s - replica.loss.at_s:.1f} s"
        cause = replica.loss.cause if replica.loss else event.cause
        self._once(event.replica_id, "bad", f"{cause}; {again} ({replica.recovery_reason})")
        for row in event.log_tail.splitlines()[-8:]:
            self.tell("bad", f"    {row}")

    def _action(self, action: act.Action) -> None:
        match action:
            case act.StartReplica():
                devices = ", ".join(map(_name, action.devices))
                self._once(
                    action.replica_id,
                    "info",
                    f"starting {action.deployment.engine} on {devices} (epoch {action.epoch})",
                )
            case act.StopReplica():
                self._once(action.replica_id, "info", f"stopping: {action.reason}")

    def _tell_devices(self, state: State) -> None:
        for uuid, record in state.devices.items():
            told = self._unwell.get(uuid)
            if record.health is Health.HEALTHY:
                if told is not None:
                    self.tell("good", f"{told[0]}: healthy again")
                    del self._unwell[uuid]
                continue
            reason = one_line(record.health_reason or "")
            words = ": ".join(filter(None, (record.health.value, reason)))
            if told is None or told[1] != words:
                self._unwell[uuid] = (_name(record.device), words)
                self.tell("bad", f"{_name(record.device)}: {words}")
        for uuid in [one for one in self._unwell if one not in state.devices]:
            del self._unwell[uuid]

    def _tell_blocked(self, state: State) -> None:
        for replica in state.replicas.values():
            if replica.state is not ReplicaState.PENDING or replica.blocked is None:
                self._blocked.pop(replica.id, None)
            elif self._blocked.get(replica.id) != replica.blocked.summary:
                self._blocked[replica.id] = replica.blocked.summary
                self.tell("bad", f"{replica.id}: pending: {replica.blocked.summary}")

    def _tell_rejected(self, state: State) -> None:
        """Facts that cannot be true are a driver's mistake; each kind of them is told once."""
        for words in state.rejected:
            if words not in self._rejections_told:
                self._rejections_told.add(words)
                self.tell("bad", f"refused {words}")

    def _once(self, replica_id: str, severity: str, line: str) -> None:
        if self._last.get(replica_id) != line:
            self._last[replica_id] = line
            self.tell(severity, f"{replica_id}: {line}")


def _name(device: Device) -> str:
    return f"{device.node}/{device.kind}{device.index}"
