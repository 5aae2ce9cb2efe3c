"""The status and the explanation of states that are hard to meet with a real controller."""

import msgspec
import pytest

from muai_core.cli.explain import print_explanation
from muai_core.cli.status import print_status
from muai_core.control import events as ev
from muai_core.control.actions import StartReplica
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading, HostFault, Inventory
from muai_core.planning.balanced import Balanced
from muai_core.plugin.failure import Failure
from muai_core.plugin.loading import PluginRecord
from muai_core.plugin.recovery import GiveUp, RecoveryPolicy, ReplicaLoss
from muai_core.runtime.device_views import View, health_view
from muai_core.runtime.explain import explain_view
from muai_core.runtime.resolution import EngineChoice
from muai_core.runtime.sinks import SinkStatus
from muai_core.runtime.status import Surroundings, status_view

GIB = 1024**3
CHAT = Deployment(
    name="chat",
    source="weights",
    engine="fake",
    platforms=("cuda",),
    tensor_parallel_size=2,
    pipeline_parallel_size=2,
    memory_bytes_per_device=30 * GIB,
    engine_options={"token": "hunter2"},
)
CHOICES = (EngineChoice("other", False, "runs on tpu"), EngineChoice("fake", True, "auto: yes"))


class NeverAgain(RecoveryPolicy):
    name = "never_again"

    def decide(self, loss: ReplicaLoss, backoff_initial_s: float, backoff_max_s: float) -> GiveUp:
        return GiveUp("once is enough")


class Story:
    """A plane with four GPUs whose time only moves when it is told."""

    def __init__(self, policy: RecoveryPolicy | None = None) -> None:
        settings = ControlSettings(backoff_initial_s=8.0)
        self.plane = ControlPlane(settings, Balanced(), policy or Ladder())
        self.now_s = 100.0
        self.surroundings = Surroundings(
            version="1.2.3",
            pid=4711,
            started_at_s=10.0,
            gateway_address="http://127.0.0.1:8000",
            in_flight={("chat.0", 1): 3, ("chat.0", 9): 1},
            sinks=[
                SinkStatus(
                    name="prometheus",
                    state="failing",
                    batches_published=7,
                    batches_dropped=2,
                    last_failure="OSError: no",
                    busy_s=None,
                )
            ],
            plugins=[
                PluginRecord(
                    name="bad", version="1", origin="bad-dist", status="failed", reason="Oops: no"
                )
            ],
        )
        devices = tuple(_gpu(index) for index in range(4))
        self.observe(devices)
        self.tell(ev.DeploymentsDesired(deployments=(CHAT,)))

    def observe(self, devices: tuple[Device, ...]) -> None:
        readings = tuple(DeviceReading(uuid=device.uuid) for device in devices)
        inventory = Inventory(
            source="fake", observed_at_s=self.now_s, devices=devices, readings=readings
        )
        self.tell(ev.DevicesObserved(inventory=inventory))

    def tell(self, *events: ev.Event) -> None:
        self.actions = self.plane.step(self.now_s, events)

    def fail(self) -> None:
        """The replica exits and its end is proven, two seconds later."""
        self.now_s += 2
        cause = "exited with status 7"
        log = "line one\nline two"
        self.tell(ev.ReplicaExited(replica_id="chat.0", epoch=1, cause=cause, log_tail=log))
        self.tell(ev.ReplicaReleased(replica_id="chat.0", epoch=1))

    def status(self) -> View:
        return status_view(self.plane.state, self.surroundings, self.now_s)

    def explain(self) -> View:
        view = explain_view(self.plane.state, "chat", CHOICES, self.now_s)
        assert view is not None
        return view


def _gpu(index: int) -> Device:
    return Device(
        uuid=f"GPU-{index}",
        node="box",
        index=index,
        kind="gpu",
        platform="cuda",
        name="G",
        memory_total_bytes=80 * GIB,
    )


def test_a_starting_replica_shows_its_stage_and_its_stages() -> None:
    story = Story()
    assert any(isinstance(action, StartReplica) for action in story.actions)
    story.now_s += 1.5
    story.tell(
        ev.ReplicaSpawned(replica_id="chat.0", epoch=1, pid=99),
        ev.ReplicaProgressed(replica_id="chat.0", epoch=1, stage="load", detail="40 %"),
    )
    status = story.status()
    (replica,) = status["models"]["chat"]["replicas"]
    assert (replica["state"], replica["stage"], replica["detail"]) == ("starting", "load", "40 %")
    assert (replica["pid"], replica["for_s"], replica["requests_in_flight"]) == (99, 1.5, 3)
    assert [[device["index"] for device in stage] for stage in replica["devices"]] == [
        [0, 1],
        [2, 3],
    ]
    assert status["uptime_s"] == 91.5
    assert status["gateway"]["requests_in_flight"] == 4


def test_a_failure_is_told_by_its_kind() -> None:
    story = Story()
    known = Failure(kind="model_files", reason="no weights", advice="fetch the model again")
    story.tell(
        ev.ReplicaStartFailed(replica_id="chat.0", epoch=1, cause="it ended", failure=known),
        ev.ReplicaReleased(replica_id="chat.0", epoch=1),
    )
    (replica,) = story.status()["models"]["chat"]["replicas"]
    assert replica["last_failure"]["failure"] == {
        "kind": "model_files",
        "reason": "no weights",
        "advice": "fetch the model again",
    }
    expected = "it ended (model_files: no weights; fetch the model again)"
    assert replica["last_failure"]["cause"] == expected


def test_a_replica_in_backoff_shows_why_and_when_it_returns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = Story()
    story.fail()
    story.now_s += 0.5
    (replica,) = story.status()["models"]["chat"]["replicas"]
    assert replica["state"] == "backoff"
    assert replica["devices"] is None
    assert replica["last_failure"] == {
        "ago_s": 0.5,
        "epoch": 1,
        "cause": "exited with status 7",
        "failure": None,
    }
    assert 5 < replica["retry_in_s"] < 8
    print_explanation(story.explain())
    told = capsys.readouterr().out
    assert "last failure 0.5 s ago, epoch 1: exited with status 7" in told
    assert "    line one\n    line two\n" in told
    assert "starts again in" in told
    assert "box/gpu0-3  eligible" in told


def test_an_abandoned_replica_shows_why(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(NeverAgain())
    story.fail()
    (replica,) = story.explain()["replicas"]
    assert (replica["state"], replica["retry_in_s"]) == ("abandoned", None)
    print_explanation(story.explain())
    assert "why: once is enough" in capsys.readouterr().out


def test_a_model_that_is_on_its_way_out_is_still_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = Story()
    story.tell(ev.ReplicaReady(replica_id="chat.0", epoch=1, endpoint="http://127.0.0.1:1"))
    story.tell(ev.ShutdownRequested())
    status = story.status()
    assert status["state"] == "stopping"
    chat = status["models"]["chat"]
    assert (chat["state"], chat["desired"]) == ("leaving", 0)
    assert [(one["state"], one["retiring"]) for one in chat["replicas"]] == [("draining", True)]
    assert explain_view(story.plane.state, "chat", (), story.now_s) is None
    print_status(status)
    assert "draining" in capsys.readouterr().out


def test_a_vanished_device_is_absent_and_failed() -> None:
    story = Story()
    story.now_s += 1
    story.observe(tuple(_gpu(index) for index in range(1, 4)))
    gone, *others = story.status()["devices"]
    assert (gone["uuid"], gone["present"], gone["health"]) == ("GPU-0", False, "failed")
    assert all(device["present"] for device in others)


def test_failed_plugins_and_sinks_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    story.tell(ev.DeviceSourceFailed(source="fake", reason="driver gone"))
    print_status(story.status())
    told = capsys.readouterr()
    assert "failing" in told.out
    assert "OSError: no" in told.out
    assert "plugin bad failed to load: Oops: no" in told.err
    assert "device source fake: driver gone" in told.err


def test_a_fault_of_the_host_is_told_above_its_devices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = Story()
    story.now_s += 1
    fault = HostFault(kind="driver_not_loaded", reason="no driver is loaded", advice="load it")
    inventory = Inventory(source="fake", observed_at_s=story.now_s, devices=(), fault=fault)
    story.tell(ev.DevicesObserved(inventory=inventory))
    status = story.status()
    assert {device["health"] for device in status["devices"]} == {"unknown"}
    print_status(status)
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("fake: no driver is loaded; load it")
    assert lines[place + 1].startswith("DEVICE")
    (told, *_) = health_view(story.plane.state)
    assert (told["health"], told["health_reason"], told["advice"]) == (
        "unknown",
        "no driver is loaded",
        "load it",
    )


def test_no_view_holds_engine_options() -> None:
    story = Story()
    for view in (story.status(), story.explain()):
        assert b"hunter2" not in msgspec.json.encode(view)
