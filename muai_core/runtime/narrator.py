"""What `muai run` tells on the way: a replica's life step by step, and how devices fare."""

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
        #: UUID → why its last self-test proved nothing.
        self._unproven: dict[str, str] = {}
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
            self._action(state, action)
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
            case ev.DeviceChecked():
                self._self_test(state, event)
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

    def _action(self, state: State, action: act.Action) -> None:
        match action:
            case act.StartReplica():
                devices = ", ".join(dict.fromkeys(map(_name, action.devices)))
                self._once(
                    action.replica_id,
                    "info",
                    f"starting {action.deployment.engine} on {devices} (epoch {action.epoch})",
                )
            case act.StopReplica():
                self._once(action.replica_id, "info", f"stopping: {action.reason}")
            case act.ReportHealth():
                self._health(state, action)
            case act.ReportFinding():
                self._finding(state, action)
            case act.ReportHostFault():
                self._host_fault(action)

    def _health(self, state: State, action: act.ReportHealth) -> None:
        device = _device_name(state, action.uuid)
        cause = one_line(action.cause)
        if action.after is Health.HEALTHY:
            self.tell("good", f"{device}: healthy again: {cause}")
            return
        words = _with_advice(f"{device}: {action.after.value}: {cause}", action.advice)
        better = action.after.rank < action.before.rank
        self.tell("info" if better else "bad", words)

    def _finding(self, state: State, action: act.ReportFinding) -> None:
        where = f"device source {action.source}"
        if action.uuid is not None:
            where = _device_name(state, action.uuid)
        times = f" ({action.count} times so far)" if action.count > 1 else ""
        words = f"{where}: {one_line(action.finding.reason)}{times}"
        grave = action.finding.severity.rank >= Health.SUSPECT.rank
        self.tell("bad" if grave else "info", _with_advice(words, action.finding.advice))

    def _host_fault(self, action: act.ReportHostFault) -> None:
        where, reason = f"device source {action.source}", one_line(action.reason)
        if action.ended:
            self.tell("good", f"{where}: sees its devices again (it was: {reason})")
        else:
            words = f"{where}: nothing is known of its devices: {reason}"
            self.tell("bad", _with_advice(words, action.advice))

    def _self_test(self, state: State, event: ev.DeviceChecked) -> None:
        """Only one that proved nothing: of the others, what follows from them is told."""
        record = state.devices.get(event.uuid)
        test = None if record is None else record.condition.self_test
        if test is None or test.check != event.check or test.verdict != "inconclusive":
            self._unproven.pop(event.uuid, None)
        elif self._unproven.get(event.uuid) != test.detail:
            self._unproven[event.uuid] = test.detail
            device = _device_name(state, event.uuid)
            self.tell("info", f"{device}: the self-test proved nothing: {one_line(test.detail)}")

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
    return f"{device.node}/{device.kind}{device.label}"


def _device_name(state: State, uuid: str) -> str:
    record = state.devices.get(uuid)
    return uuid if record is None else _name(record.device)


def _with_advice(words: str, advice: str) -> str:
    return f"{words}; {one_line(advice)}" if advice else words
