"""What is known of a replica under test: before its start, of its start, and of its end."""

from msgspec import Struct

from muai_core.control import events as ev
from muai_core.runtime.process import Release
from muai_core.testing.engine.bench import Replica
from muai_core.testing.engine.client import Reply
from muai_core.testing.engine.remains import Remains


class Limits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds, and what it is given."""

    #: One start, until the replica serves.
    start_s: float = 120.0
    #: One answer.
    answer_s: float = 60.0
    #: What a replica gets to end by itself.
    stop_grace_s: float = 30.0
    #: From the end of a connection until nothing is generated for it any more.
    abort_s: float = 1.0
    #: From the death of a rank until it is told.
    rank_loss_s: float = 0.5
    #: From the end of the last process until a driver gives its memory back.
    memory_back_s: float = 10.0
    #: Importing the plugin, in processor time beyond the core's own import.
    import_s: float = 0.1
    #: Address space in which it cannot start, in bytes.
    starved_bytes: int = 512 * 1024**2


class LoadingLook(Struct, frozen=True):
    """What a replica answered at one moment before it was ready."""

    models: tuple[str, ...]
    #: Of the readiness path, asked after the models; None: no answer.
    status: int | None


class Started(Struct, frozen=True, kw_only=True):
    """A replica that got ready."""

    replica: Replica
    remains: Remains
    #: The answer to the first completion, asked at once.
    first: Reply
    looks: tuple[LoadingLook, ...]
    #: Memory in use by device just before the start; None: nobody tells.
    used_bytes: dict[str, int | None]


class Stopped(Struct, frozen=True, kw_only=True):
    """What a stop came to."""

    end: ev.ReplicaExited | ev.ReplicaStartFailed | None
    release: Release
    processes: tuple[str, ...]
    shared_memory: tuple[str, ...]
    #: Memory in use before its start on the devices that it claimed, as in `Started`.
    used_bytes: dict[str, int | None]
