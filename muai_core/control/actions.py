"""Intents: what the control plane wants done. Imperative, frozen, serialisable.

Every action about a replica carries its epoch and a deadline on the controller's clock, and ends in
one of a closed set of outcomes. When the deadline passes without one, the plane asks again or asks
for more; it never assumes.

| action | outcomes | after the deadline |
| --- | --- | --- |
| StartReplica | ReplicaReady, ReplicaStartFailed, ReplicaExited | StopReplica |
| DrainReplica | ReplicaDrained, ReplicaExited | StopReplica |
| StopReplica | ReplicaExited | StopReplica again, without grace |
| ConfirmRelease | ReplicaReleased | ConfirmRelease again |
| PublishRoutes | none: it is a swap in memory | |
| CheckDevice | DeviceChecked | it counts as inconclusive |
| ReportHealth, ReportFinding, ReportHostFault | none: told to people | |
"""

import msgspec
from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.health import Finding, Health, Recovery
from muai_core.model.placement import Placement
from muai_core.model.routing import RoutingTable


class Intent(Struct, frozen=True, kw_only=True, tag_field="action", tag=True):
    """Base of all actions."""


class ReplicaIntent(Intent, frozen=True):
    """Base of the actions on one incarnation of one replica."""

    replica_id: str
    epoch: int
    deadline_at_s: float


class StartReplica(ReplicaIntent, frozen=True):
    """Start the deployment's engine on the placement's devices (given in rank order)."""

    deployment: Deployment
    placement: Placement
    devices: tuple[Device, ...]


class DrainReplica(ReplicaIntent, frozen=True):
    """Report when no request is in flight on it; it is out of the routing table already."""


class StopReplica(ReplicaIntent, frozen=True):
    """End its whole process group: politely for `grace_s` seconds, then by force."""

    grace_s: float
    reason: str


class ConfirmRelease(ReplicaIntent, frozen=True):
    """Make sure that nothing of it is left and that these devices have their memory back."""

    devices: tuple[str, ...]


class PublishRoutes(Intent, frozen=True):
    """Hand the gateway a new routing table."""

    table: RoutingTable


class CheckDevice(Intent, frozen=True):
    """Run its source's self-test on the device, which has `memory_free_bytes` left for it."""

    device: Device
    source: str
    #: Counts the self-tests of the device.
    check: int
    deadline_at_s: float
    memory_free_bytes: int


class ReportHealth(Intent, frozen=True):
    """A device's health changed: tell people what, why, on what evidence, and what to do."""

    uuid: str
    before: Health
    after: Health
    #: The finding that decided, in words, or what ended the last one.
    cause: str
    #: All findings that count, in words, the worst first.
    evidence: tuple[str, ...] = ()
    #: Empty: nothing to do.
    advice: str = ""
    recovery: Recovery | None = None


class ReportFinding(Intent, frozen=True):
    """Something happened that changes no device's health: tell people, once per burst."""

    source: str
    #: The device; None, or one that its source does not list.
    uuid: str | None
    finding: Finding
    #: How often it was found there since the controller started.
    count: int


class ReportHostFault(Intent, frozen=True):
    """Something is wrong with a source's node or driver: tell people, once for all its devices."""

    source: str
    kind: str
    reason: str
    advice: str
    #: It is over.
    ended: bool = False


Action = (
    StartReplica
    | DrainReplica
    | StopReplica
    | ConfirmRelease
    | PublishRoutes
    | CheckDevice
    | ReportHealth
    | ReportFinding
    | ReportHostFault
)

#: Raises msgspec.ValidationError on anything that is not an action.
decode_action = msgspec.json.Decoder(Action).decode
