"""A GPU's metrics as its story unfolds in the control plane: off the bus, silent, gone, back."""

from muai_core.control.events import DeviceFaulted, DevicesObserved, DeviceSourceFailed, Event
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.device import Device, DeviceReading, HostFault, Inventory
from muai_core.model.health import Finding, Health
from muai_core.planning.balanced import Balanced
from muai_core.telemetry.devices import DeviceCollector, device_facts

GIB = 2**30
OFF_THE_BUS = Finding(
    kind="xid",
    code=79,
    severity=Health.FAILED,
    recovery="reboot",
    reason="XID 79: fell off the bus",
    clears="repaired",
)
LOST = Finding(
    kind="gpu_lost",
    code=15,
    severity=Health.FAILED,
    recovery="reboot",
    reason="it cannot be reached any more",
    clears="checked",
)
UNRESPONSIVE = Finding(
    kind="unresponsive", severity=Health.SUSPECT, reason="no answer in 2 s", clears="clean"
)


class Story:
    """A plane that watches two GPUs, and what its metrics say."""

    def __init__(self) -> None:
        self.plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
        self.collector = DeviceCollector(stale_after_s=15.0)
        self.devices = [
            Device(
                uuid=f"GPU-{index}",
                node="n",
                index=index,
                kind="gpu",
                platform="cuda",
                name="H100",
                memory_total_bytes=80 * GIB,
            )
            for index in range(2)
        ]
        self.now_s = 0.0

    def reading(self, index: int, **values: object) -> DeviceReading:
        return DeviceReading(uuid=f"GPU-{index}", temperature_celsius=40.0, **values)

    def observes(
        self,
        now_s: float,
        *readings: DeviceReading,
        listed: int = 2,
        fault: HostFault | None = None,
    ) -> None:
        inventory = Inventory(
            source="nvml",
            observed_at_s=now_s,
            devices=tuple(self.devices[:listed]),
            readings=readings,
            fault=fault,
        )
        self.happens(now_s, DevicesObserved(inventory=inventory))

    def happens(self, now_s: float, event: Event) -> None:
        self.now_s = now_s
        self.plane.step(now_s, [event])
        assert not self.plane.state.rejected

    def shown(self, now_s: float | None = None) -> tuple[list[str], list[str], dict[str, str]]:
        """The GPUs with a temperature, those that are fit, and the health of each."""
        now_s = self.now_s if now_s is None else now_s
        families = self.collector.collect(device_facts(self.plane.state, {}, now_s))
        by_name = {family.name: family.points for family in families}
        warm = [point.labels[0] for point in by_name.get("gpu_temperature_celsius", ())]
        fit = [point.labels[0] for point in by_name.get("gpu_health_status", ()) if point.value]
        states = {
            point.labels[0]: point.labels[1]
            for point in by_name.get("gpu_health_state", ())
            if point.value
        }
        return warm, fit, states


def fine(story: Story, now_s: float) -> None:
    story.observes(now_s, story.reading(0), story.reading(1))


def test_falling_off_the_bus_ends_the_series_with_the_event() -> None:
    story = Story()
    fine(story, 5.0)
    assert story.shown() == (["0", "1"], ["0", "1"], {"0": "healthy", "1": "healthy"})
    event = DeviceFaulted(source="nvml", uuid="GPU-1", observed_at_s=7.0, finding=OFF_THE_BUS)
    story.happens(7.0, event)
    assert story.shown() == (["0"], ["0"], {"0": "healthy", "1": "failed"})
    story.observes(10.0, story.reading(0), DeviceReading(uuid="GPU-1", findings=(LOST,)))
    assert story.shown() == (["0"], ["0"], {"0": "healthy", "1": "failed"})
    # After a reset of the bus it answers: worth seeing, but still not trusted.
    fine(story, 15.0)
    assert story.shown() == (["0", "1"], ["0"], {"0": "healthy", "1": "failed"})


def test_a_gpu_that_gives_no_answer_shows_no_old_values() -> None:
    story = Story()
    fine(story, 5.0)
    repeated = story.reading(1, sampled_at_s=5.0, findings=(UNRESPONSIVE,))
    story.observes(10.0, story.reading(0), repeated)
    assert story.shown() == (["0"], ["0"], {"0": "healthy", "1": "suspect"})
    fine(story, 15.0)
    assert story.shown()[0] == ["0", "1"]


def test_a_source_that_is_stuck_shows_no_old_values() -> None:
    story = Story()
    fine(story, 5.0)
    story.happens(20.0, DeviceSourceFailed(source="nvml", reason="no answer"))
    assert story.shown(20.0)[0] == ["0", "1"]
    assert story.shown(20.1)[0] == []


def test_a_gpu_that_is_no_longer_listed_keeps_its_health_while_it_is_remembered() -> None:
    story = Story()
    fine(story, 5.0)
    story.observes(10.0, story.reading(0), listed=1)
    warm, fit, states = story.shown()
    assert (warm, fit) == (["0"], ["0"])
    assert states in ({"0": "healthy"}, {"0": "healthy", "1": "failed"})


def test_a_host_fault_blames_no_gpu_and_shows_no_old_values() -> None:
    story = Story()
    fine(story, 5.0)
    gone = HostFault(kind="driver_not_loaded", reason="no driver", advice="load it")
    story.observes(10.0, fault=gone)
    assert story.shown() == ([], [], {"0": "unknown", "1": "unknown"})
    fine(story, 15.0)
    assert story.shown()[:2] == (["0", "1"], ["0", "1"])
