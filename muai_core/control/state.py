"""The state of the control plane: one object that owns plain tables of frozen records."""

from typing import Any, Literal

from msgspec import Struct, field

from muai_core.control.ledger import Ledger
from muai_core.control.lifecycle import ReplicaState
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceLink, DeviceReading, HostFault, Platform
from muai_core.model.health import Finding, Health, Recovery
from muai_core.model.placement import Placement, Unplaceable
from muai_core.model.routing import RoutingTable
from muai_core.plugin.failure import Failure


class HealthSettings(Struct, frozen=True, kw_only=True):
    """How evidence about devices is weighed: `devices.health` of the config. Times in seconds."""

    #: Readings in a row that must not show a finding before it stops counting.
    clean_readings: int = 3
    #: Within this time the same happenings on one device are held against it together.
    repeat_window_s: float = 86_400.0
    #: Happenings that follow the first of them within this time count as one.
    burst_s: float = 180.0
    #: Which devices are put to the test: none; suspect and failed ones; idle ones as well.
    self_test: Literal["off", "suspect", "idle"] = "suspect"
    #: How often an idle device is tested, and one of which the last test proved nothing.
    self_test_interval_s: float = 3600.0
    #: How long after a self-test the next one of a suspect or failed device may come.
    self_test_retry_s: float = 60.0
    #: How long a self-test may take, its start and its end included.
    self_test_deadline_s: float = 60.0
    #: What must be free on a device before it is tested.
    self_test_memory_bytes: int = 1024**3


class ControlSettings(Struct, frozen=True, kw_only=True):
    """What the plane needs to know of the config. All times in seconds."""

    strategy: str = "balanced"
    policy: str = "ladder"
    #: Validated by the strategy's and the policy's own options models.
    strategy_options: dict[str, Any] = {}
    policy_options: dict[str, Any] = {}
    #: Kept free on every device: never claimed.
    memory_reserve_bytes: int = 0
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 60.0
    #: A replica that was ready this long starts again with a clean record of failures.
    stable_after_s: float = 60.0
    start_deadline_s: float = 720.0
    drain_s: float = 30.0
    stop_grace_s: float = 10.0
    #: How long a stop may take beyond its grace before it is asked for again.
    stop_margin_s: float = 5.0
    release_deadline_s: float = 5.0
    health: HealthSettings = HealthSettings()


class OpenFinding(Struct, frozen=True, kw_only=True):
    """A finding that still counts. Times are on the controller's clock."""

    finding: Finding
    first_at_s: float
    last_at_s: float
    #: How often it was found; a condition that stays counts once.
    count: int = 1
    #: Whether it is a condition that the last reading showed.
    present: bool = False
    #: Readings in a row that did not show it.
    clean_readings: int = 0
    #: How many self-tests of the device had been asked for when it was last found: only a later
    #: one says anything about it.
    checks_before: int = 0


class SelfTestRecord(Struct, frozen=True, kw_only=True):
    """The last self-test of a device."""

    check: int
    asked_at_s: float
    deadline_at_s: float
    #: None while it is under way.
    ended_at_s: float | None = None
    verdict: Literal["passed", "failed", "inconclusive"] | None = None
    #: What was done and found, or why it proved nothing.
    detail: str = ""


class DeviceHealth(Struct, frozen=True, kw_only=True):
    """What is known of a device's fitness, and why. It changes only in `muai_core.control.health`.

    `state`, `cause`, `advice` and `recovery` are those of the worst open finding.
    """

    state: Health = Health.HEALTHY
    #: Since when it is in that state.
    since_s: float = 0.0
    #: Why, in words; None when healthy.
    cause: str | None = None
    advice: str = ""
    recovery: Recovery | None = None
    #: Findings that count, in the order in which they were first found.
    open: tuple[OpenFinding, ...] = ()
    #: How often each finding was made, by its key, since the controller started.
    counts: dict[str, int] = {}
    #: When the latest bursts of each happening began, by its key, the newest last.
    bursts: dict[str, tuple[float, ...]] = {}
    self_test: SelfTestRecord | None = None
    #: When an operator last said that the device is fit.
    reinstated_at_s: float | None = None


class DeviceRecord(Struct, frozen=True, kw_only=True):
    """A device as last observed. One that vanished stays, absent, with its health."""

    device: Device
    source: str
    reading: DeviceReading
    #: When the newest sample of it was taken.
    sampled_at_s: float | None = None
    present: bool = True
    condition: DeviceHealth = DeviceHealth()
    #: What nobody's claim covers: as the source tells it, or estimated.
    foreign_bytes: int = 0
    #: When a claim on it was last released.
    freed_at_s: float | None = None

    @property
    def health(self) -> Health:
        return self.condition.state

    @property
    def health_reason(self) -> str | None:
        return self.condition.cause


class SourceRecord(Struct, frozen=True, kw_only=True):
    """A device source: when it was last heard of, and what it complained about since."""

    observed_at_s: float | None = None
    failure: str | None = None
    #: What is wrong with its node or driver; nothing is known of its devices meanwhile.
    fault: HostFault | None = None
    links: tuple[DeviceLink, ...] = ()
    #: As for devices: what happened on none that it lists.
    counts: dict[str, int] = {}
    bursts: dict[str, tuple[float, ...]] = {}


class Loss(Struct, frozen=True):
    """The last failure of a replica: when, why in one line, and the end of its log."""

    at_s: float
    epoch: int
    cause: str
    log_tail: str = ""
    #: What the engine called it, where anything tells.
    failure: Failure | None = None


class Replica(Struct, frozen=True, kw_only=True):
    """One replica. `due_at_s` is when the plane must act if nothing happens before."""

    id: str
    deployment: str
    generation: int
    number: int
    state: ReplicaState = ReplicaState.PENDING
    since_s: float
    epoch: int = 0
    due_at_s: float | None = None
    placement: Placement | None = None
    pid: int | None = None
    #: When the process of the current epoch was reported to exist.
    spawned_at_s: float | None = None
    endpoint: str | None = None
    stage: str | None = None
    detail: str | None = None
    #: Set once it is not wanted any more; never unset.
    retiring: bool = False
    #: Why it was told to stop although it is wanted, e.g. a missed start deadline.
    condemned: str | None = None
    #: Failures in a row.
    failures: int = 0
    #: Starts after the first.
    restarts: int = 0
    loss: Loss | None = None
    retry_at_s: float | None = None
    recovery_reason: str | None = None
    #: Why no placement was found at the last try.
    blocked: Unplaceable | None = None


class State(Struct, kw_only=True):
    """All tables. Mutated only by the plane, between whole events."""

    settings: ControlSettings
    now_s: float = 0.0
    shutting_down: bool = False
    deployments: dict[str, Deployment] = field(default_factory=dict)
    #: Last generation and last replica number given out, per deployment name; never reset.
    generations: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    replicas: dict[str, Replica] = field(default_factory=dict)
    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    #: Platforms that any device ever had, in the order of their first sight.
    platforms: list[Platform] = field(default_factory=list)
    sources: dict[str, SourceRecord] = field(default_factory=dict)
    #: A happening that counts by its repetition, and a node, as in `xid:31 on n1` → the two devices
    #: there that it was last seen on, and when, the newest last.
    seen_on: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    routes: RoutingTable = RoutingTable()
    replicas_observed_at_s: float | None = None
    #: Counts by kind of event: applied; ignored as stale; rejected, with the reason.
    applied: dict[str, int] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    policy_failures: dict[str, int] = field(default_factory=dict)
