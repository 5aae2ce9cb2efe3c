"""What is known of each GPU, by its number in the driver, and of each probe."""

import math

from msgspec import Struct, field

from muai_nvml.conditions import History
from muai_nvml.probe_process import ProbeProcess
from muai_nvml.wire import Described, Failure, Occurred, Sampled

#: So long a probe may take from its creation until NVML has started in it.
START_DEADLINE_S = 10.0
#: So much longer than a GPU's deadline a probe that was asked may say nothing at all.
SILENCE_S = 1.0
#: Between two tries with a GPU that does not answer, or with a driver that does not start.
LONGEST_PAUSE_S = 60.0


class Stuck(Struct, kw_only=True):
    """A GPU that does not answer."""

    #: What it is stuck in, in words.
    words: str
    since_s: float
    #: Deadlines that it has missed in a row.
    misses: int = 1
    retry_at_s: float


class Slot(Struct, kw_only=True, eq=False):
    """One GPU. `described` and `sampled` outlive the probe that they came from."""

    index: int
    history: History
    described: Described | None = None
    #: Its last visit that brought readings.
    sampled: Sampled | None = None
    #: Of its last visit.
    failure: Failure | None = None
    #: When its last visit was reported.
    heard_at_s: float = -math.inf
    stuck: Stuck | None = None
    #: Times that it has answered its own probe since it was stuck.
    answers_alone: int = 0
    #: An event was told of it, and it is being read again because of that.
    looking: bool = False
    #: The driver said that its recovery action has changed: tell it with the next sample.
    recheck: bool = False

    def describe(self, described: Described) -> None:
        """What was seen of another GPU, which had this number before, says nothing of this one."""
        if self.described is None or self.described.gpu_uuid != described.gpu_uuid:
            self.forget()
        self.described = described

    def forget(self) -> None:
        """Another GPU has this number now, or may have."""
        self.described = self.sampled = self.failure = None
        self.history = History()

    def stick(self, words: str, since_s: float, now_s: float, deadline_s: float) -> None:
        """One more missed deadline. The first is followed by a new try at once, later ones by
        pauses that double."""
        self.answers_alone = 0
        if self.stuck is None:
            self.stuck = Stuck(words=words, since_s=since_s, retry_at_s=now_s)
            return
        pause_s = deadline_s * 2.0 ** (self.stuck.misses - 1)
        self.stuck.misses += 1
        self.stuck.words = words
        self.stuck.retry_at_s = now_s + min(pause_s, LONGEST_PAUSE_S)


class Probe(Struct, kw_only=True, eq=False):
    """A probe process and how it does."""

    process: ProbeProcess
    started_at_s: float
    heard_at_s: float
    #: It was asked then, and has not come to the end of that round.
    owes_since_s: float | None
    #: It was last asked on behalf of a round that began then.
    asked_at_s: float = -math.inf
    #: None: it looks at all GPUs but those in `without`.
    only: int | None = None
    without: frozenset[int] = frozenset()
    #: It runs; NVML may still be starting in it.
    running: bool = False
    #: Once NVML has started.
    gpus: int | None = None
    #: Once it has been everywhere and waits for events.
    ready: bool = False
    #: Once it has counted the GPUs and seen what lies between them.
    host_seen: bool = False
    host_failure: Failure | None = None
    #: The GPUs that hold up nobody any more.
    late: set[int] = field(default_factory=set)
    #: One of its threads is stuck for good.
    tainted: bool = False

    def patience_ends_s(self, deadline_s: float) -> float | None:
        """When its silence becomes a failure; None: nothing is expected of it."""
        if self.gpus is None:
            return self.started_at_s + START_DEADLINE_S
        if self.ready and self.owes_since_s is None:
            return None
        return max(self.owes_since_s or 0.0, self.heard_at_s) + deadline_s + SILENCE_S


class Listener:
    """What the fleet tells at once, between two observations."""

    def occurred(self, slot: Slot | None, event: Occurred, probe_pid: int) -> None:
        """An event of the driver's, heard by that probe; None: of a GPU that is not known."""

    def unresponsive(self, slot: Slot) -> None:
        """A GPU has missed a deadline, `slot.stuck.misses` in a row."""

    def rechecked(self, slot: Slot) -> None:
        """A GPU has been read again since it said that its recovery action has changed."""

    def events_broken(self, text: str) -> None:
        """Waiting for events fails."""
