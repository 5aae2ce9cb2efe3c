"""Why an engine failed, in a closed set of words."""

from typing import Literal

from msgspec import Struct

FailureKind = Literal[
    "out_of_memory_weights",
    "out_of_memory_kv_cache",
    "out_of_memory_host",
    "bad_argument",
    "driver",
    "collectives",
    "port_taken",
    "model_files",
    "disk_full",
    "rank_died",
    "stalled",
    "timed_out",
    "not_as_planned",
    "unknown",
]


class Failure(Struct, frozen=True, kw_only=True):
    """What an engine died of, and what a person may do about it. Each text is one line."""

    kind: FailureKind
    reason: str
    advice: str = ""


class ExitEvidence(Struct, frozen=True, kw_only=True):
    """All that is left of an engine that ended: `signal` or `status`, neither where unknown."""

    #: Of the start: spawn, load or ready; `serving` afterwards.
    stage: str
    status: int | None = None
    signal: int | None = None
    #: The last lines of its log, without escape sequences.
    log_tail: str = ""
