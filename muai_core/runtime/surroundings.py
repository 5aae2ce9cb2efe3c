"""What all replicas of a controller share."""

from collections.abc import Callable

from msgspec import Struct, field

from muai_core.control import events as ev
from muai_core.runtime.bring_up import StageDeadlines
from muai_core.runtime.orphans import SpawnRecords
from muai_core.runtime.probe import Prober
from muai_core.runtime.start_locks import StartLocks

#: A process that is stopped answers nobody; people who stop one to look at it need a moment.
STOPPED_LIMIT_S = 10.0


class Surroundings(Struct, frozen=True, kw_only=True):
    """Given to each of them when it is started."""

    instance_id: str
    boot_id: str
    records: SpawnRecords
    prober: Prober
    deadlines: StageDeadlines
    emit: Callable[[ev.Event], None]
    start_locks: StartLocks = field(default_factory=StartLocks)
    #: How long a process may be stopped by SIGSTOP before its replica is taken down, in seconds.
    stopped_limit_s: float = STOPPED_LIMIT_S
