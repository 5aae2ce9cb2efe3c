"""Why an event changed nothing."""

from msgspec import Struct


class Stale(Struct, frozen=True):
    """True once, overtaken since: another epoch, an older observation, a late outcome."""

    why: str


class Illegal(Struct, frozen=True):
    """Cannot be true. Rejected whole and counted."""

    why: str


#: None: the event was applied.
Verdict = Stale | Illegal | None
