"""The state of the control plane: one object that owns plain tables of frozen records."""

from typing import Any, Literal

from msgspec import Struct, field

from muai_core.control.ledger import Ledger
from muai_core.control.lifecycle import ReplicaState
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceLink, DeviceReading, HostFault, Platform
from muai_core.model.health import Finding, Health, Recovery, worst
from muai_core.model.placement import Placement, Unplaceable
from muai_core.model.routing import RoutingTable


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


class OpenFinding(Struct, frozen=True, kw_only=True):
    """A finding that still counts. Times are on the controller's clock."""

    finding: Finding
    first_at_s: float
    last_at_s: float
    #: How often it was found; a condition that stays counts once.
    count: int = 1
    #: Whether the last reading shows it: a condition that holds.
    present: bool = False
    #: Readings in a row that do not show it.
    clean_readings: int = 0


class SelfTestRecord(Struct, frozen=True, kw_only=True):
    """The last self-test of a device."""

    check: int
    asked_at_s: float
    deadline_at_s: float
    #: None while it is under way.
    ended_at_s: float | None = None
    verdict: Literal["passed", "failed", "inconclusive"] | None = None
    detail: str = ""


class DeviceHealth(Struct, frozen=True, kw_only=True):
    """What is known of a device's fitness, and why."""

    state: Health = Health.HEALTHY
    since_s: float = 0.0
    #: The finding that decides, in words; None when healthy.
    cause: str | None = None
    advice: str = ""
    recovery: Recovery | None = None
    #: Findings that count, in the order in which they were first found.
    open: tuple[OpenFinding, ...] = ()
    #: How often each finding was made, by its key, since the controller started.
    counts: dict[str, int] = {}
    self_test: SelfTestRecord | None = None


class DeviceRecord(Struct, frozen=True, kw_only=True):
    """A device as last observed. One that vanished stays, absent, with its health."""

    device: Device
    source: str
    reading: DeviceReading
    present: bool = True
    condition: DeviceHealth = DeviceHealth()

    @property
    def health(self) -> Health:
        if not self.present:
            return Health.FAILED
        found = worst(self.reading.findings)
        return Health.HEALTHY if found is None else found.severity

    @property
    def health_reason(self) -> str | None:
        if not self.present:
            return "no longer seen by its source"
        found = worst(self.reading.findings)
        return None if found is None else found.reason


class SourceRecord(Struct, frozen=True):
    """A device source: when it was last heard of, and what it complained about since."""

    observed_at_s: float | None = None
    failure: str | None = None
    #: As in its last inventory.
    links: tuple[DeviceLink, ...] = ()
    fault: HostFault | None = None


class Loss(Struct, frozen=True):
    """The last failure of a replica: when, why in one line, and the end of its log."""

    at_s: float
    epoch: int
    cause: str
    log_tail: str = ""


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
    ledger: Ledger = field(default_factory=Ledger)
    routes: RoutingTable = RoutingTable()
    replicas_observed_at_s: float | None = None
    #: Counts by kind of event: applied; ignored as stale; rejected, with the reason.
    applied: dict[str, int] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    policy_failures: dict[str, int] = field(default_factory=dict)
