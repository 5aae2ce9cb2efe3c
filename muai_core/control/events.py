"""Facts: what the world tells the control plane. Named in the past tense, frozen, serialisable.

Events about a replica carry its epoch, the fence: one of another epoch is ignored. Edges get lost,
so `DevicesObserved` and `ReplicasObserved` repeat the whole truth every few seconds.
"""

import msgspec
from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.device import Inventory
from muai_core.model.health import Finding
from muai_core.plugin.failure import Failure


class Fact(Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """Base of all events."""


class DeploymentsDesired(Fact, frozen=True):
    """The whole desired state, replacing the previous one. Generations are the plane's to count."""

    deployments: tuple[Deployment, ...]


class ShutdownRequested(Fact, frozen=True):
    """Nothing is desired any more, for good: drain and stop everything."""


class DevicesObserved(Fact, frozen=True):
    """One device source's full inventory. It overrules nothing that was observed later."""

    inventory: Inventory


class DeviceSourceFailed(Fact, frozen=True):
    """A device source raised or missed its deadline; the last inventory stays."""

    source: str
    reason: str


class DeviceFaulted(Fact, frozen=True):
    """Something happened on a device between two readings, e.g. an XID.

    `uuid` is None when the source cannot say on which device.
    """

    source: str
    uuid: str | None
    observed_at_s: float
    finding: Finding


class DeviceChecked(Fact, frozen=True):
    """A self-test that a `CheckDevice` asked for has ended.

    Neither `finding` nor `inconclusive`: it passed.
    """

    uuid: str
    #: That of the action.
    check: int
    finding: Finding | None = None
    #: Why it proved nothing.
    inconclusive: str | None = None
    detail: str = ""


class DeviceReinstated(Fact, frozen=True):
    """An operator says that the device is fit again: all findings so far are forgotten."""

    uuid: str


class ReplicaFact(Fact, frozen=True):
    """Base of the events about one incarnation of one replica."""

    replica_id: str
    epoch: int


class ReplicaSpawned(ReplicaFact, frozen=True):
    """Its process exists."""

    pid: int


class ReplicaProgressed(ReplicaFact, frozen=True):
    """It reached a stage of its start (spawn, load, ready), or has news within one."""

    stage: str
    detail: str | None = None


class ReplicaReady(ReplicaFact, frozen=True):
    """It serves at `endpoint`, a base URL on loopback without a trailing slash."""

    endpoint: str


class ReplicaStartFailed(ReplicaFact, frozen=True):
    """Its start failed and was undone. `cause` is one line; `log_tail` the end of its log."""

    cause: str
    log_tail: str = ""
    #: What kind of failure that is; None: nothing tells.
    failure: Failure | None = None


class ReplicaComplained(ReplicaFact, frozen=True):
    """Its log has a line that speaks of a device in trouble, e.g. a CUDA error. It still runs."""

    line: str


class ReplicaExited(ReplicaFact, frozen=True):
    """Its process is gone, whoever ended it and whatever the exit status."""

    cause: str
    log_tail: str = ""
    #: What kind of failure that is; None: it was told to end, or nothing tells.
    failure: Failure | None = None


class ReplicaDrained(ReplicaFact, frozen=True):
    """No request is in flight on it."""


class ReplicaReleased(ReplicaFact, frozen=True):
    """Proof that no process of this epoch is left and that its devices have their memory back."""


class ReplicaSighting(Struct, frozen=True):
    """One live replica process as the supervisor sees it."""

    replica_id: str
    epoch: int


class ReplicasObserved(Fact, frozen=True):
    """All replica processes that live, as observed at `observed_at_s`."""

    observed_at_s: float
    sightings: tuple[ReplicaSighting, ...]


Event = (
    DeploymentsDesired
    | ShutdownRequested
    | DevicesObserved
    | DeviceSourceFailed
    | DeviceFaulted
    | DeviceChecked
    | DeviceReinstated
    | ReplicaSpawned
    | ReplicaProgressed
    | ReplicaReady
    | ReplicaStartFailed
    | ReplicaComplained
    | ReplicaExited
    | ReplicaDrained
    | ReplicaReleased
    | ReplicasObserved
)

#: Raises msgspec.ValidationError on anything that is not an event.
decode_event = msgspec.json.Decoder(Event).decode
