"""A metric sink under test: opened, given batches, read back, closed and opened again.

Each clause works on its own: what it needs is done when it is first asked for.
"""

import contextlib
import socket
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import psutil
from msgspec import Struct

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.planning.wording import described
from muai_core.plugin.metric_sink import MetricSink, SinkUnavailable
from muai_core.telemetry.prometheus_text import Sample, parse
from muai_core.testing import registration, surroundings
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped
from muai_core.testing.part_thread import Attempt, PartThread
from muai_core.testing.surroundings import Surroundings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: Its value says which batch it is that was read back.
_BATCH = "conformance_batch"
_POLL_S = 0.05
_OUTAGE_BATCHES = 3
_SCRAPE_TIMEOUT_S = 5.0
_PORT = "port"

#: What was exported last, one sample for each series. Names are the families', a counter's with or
#: without `_total`; a histogram gives NAME_count and NAME_sum. Labels may be more than published.
Read = Callable[[], Collection[Sample]]


class MetricSinkLimits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds."""

    #: As long as `muai run` waits.
    open_s: float = 10.0
    #: One `publish` or `trace`: longer ones lose batches.
    publish_s: float = 2.0
    #: From `publish` until it can be read back.
    export_s: float = 15.0
    #: `location` and `trace_sample_ratio`, which must not block.
    ask_s: float = 0.5
    #: What `muai run` waits at the end.
    close_s: float = 2.0
    #: Importing the plugin, in processor time beyond the core's own import.
    import_s: float = 0.1


class Session(Struct, frozen=True, kw_only=True):
    """A sink that is open."""

    ratio: Attempt[float | None]
    opening: Attempt[None]
    location: Attempt[str | None]
    #: Where this process listens that it did not before, as (address, port).
    listens: tuple[tuple[str, int], ...]


class Outage(Struct, frozen=True, kw_only=True):
    """What came of the calls while its other side was away."""

    what: str
    publishing: tuple[Attempt[None], ...]
    closing: Attempt[None]


class Endings(Struct, frozen=True, kw_only=True):
    """How it ended, twice."""

    first: Attempt[None]
    #: Closing it once more.
    again: Attempt[None]
    threads: tuple[str, ...]
    processes: tuple[str, ...]
    #: Beyond those after the first end.
    descriptors: tuple[str, ...]
    #: Why it did not work a second time.
    second_failure: str | None


class MetricSinkSubject:
    """One sink. Use it from one thread, and close it."""

    def __init__(
        self,
        sink: MetricSink,
        options: Mapping[str, Any] | None = None,
        *,
        read: Read | None = None,
        aimed_at: Callable[[int], Mapping[str, Any]] | None = None,
        plugin_module: str | None = None,
        limits: MetricSinkLimits | None = None,
    ) -> None:
        """`options` as in the config; without a `port`, any free one is taken.

        `read` tells what was exported last; a sink whose `location` is scraped as Prometheus does
        needs none. `aimed_at` gives the options with which it sends to that port of this machine;
        None: it sends to nobody. `plugin_module` has the plugin's hooks, else it is found.
        """
        self.sink = sink
        self.limits = limits or MetricSinkLimits()
        self.given_options = dict(options or {})
        self.plugin_module = plugin_module or registration.plugin_module_of(sink)
        self._aimed_at = aimed_at
        self._read = read
        self._part = PartThread()
        self._before: Surroundings | None = None
        self._session: Session | None = None
        self._failure: ClauseFailure | None = None
        self._batches = 0
        self._outages: tuple[Outage, ...] | None = None
        self._endings: Endings | None = None

    # Options

    def options(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As the controller hands them over. Raises ClauseSkipped when some are missing."""
        sink, given, chosen = self.sink, self.given_options, dict(more or {})
        if self.has_port and _PORT not in {**given, **chosen}:
            with contextlib.suppress(ClauseFailure, ClauseSkipped):
                return registration.completed_options(sink, given, {**chosen, _PORT: 0})
            chosen[_PORT] = free_port()
        return registration.completed_options(sink, given, chosen)

    @property
    def has_port(self) -> bool:
        """Whether it has an option called so. Raises ClauseFailure."""
        model = registration.model_of(self.sink)
        return model is not None and _PORT in model.model_fields

    # Open

    def opened(self) -> Session:
        """The session that is open. Raises ClauseSkipped when it cannot be opened (`why_not`)."""
        if self._session is None and self._failure is None:
            try:
                self._session = self.open()
            except ClauseFailure as failure:
                self._failure = failure
        if self._session is None:
            raise ClauseSkipped("it could not be opened, see the clause on opening")
        return self._session

    def why_not(self) -> ClauseFailure | None:
        """Why it cannot be opened."""
        try:
            self.opened()
        except ClauseSkipped:
            if self._failure is None:
                raise
        return self._failure

    def before(self) -> Surroundings:
        """This process before the sink was first opened."""
        if self._before is None:
            self._before = surroundings.look()
        return self._before

    def open(self, more: Mapping[str, Any] | None = None) -> Session:
        """Opens it with its options and these. Raises ClauseFailure."""
        options = self.options(more)
        self.before()
        listened = _listening()
        sink, limits = self.sink, self.limits
        ratio = self._part.attempt(
            "trace_sample_ratio()", lambda: sink.trace_sample_ratio(options), limits.ask_s
        )
        opening = self._part.call("open()", lambda: sink.open(options), limits.open_s)
        location = self._part.attempt("location()", sink.location, limits.ask_s)
        return Session(
            ratio=ratio,
            opening=opening,
            location=location,
            listens=tuple(sorted(_listening() - listened)),
        )

    def try_to_open(self, more: Mapping[str, Any]) -> Attempt[None]:
        """What `open` comes to with these options; nothing is open before and after."""
        self.ended()
        options = self.options(more)
        self.before()
        attempt = self._part.attempt("open()", lambda: self.sink.open(options), self.limits.open_s)
        if attempt.error is None:
            self.end()
        return attempt

    @property
    def sends(self) -> bool:
        """Whether it can be aimed at a port."""
        return self._aimed_at is not None

    def outages(self) -> tuple[Outage, ...]:
        """Publishing to a port where nobody listens, and to one where nobody answers.

        Raises ClauseSkipped, and ClauseFailure when it does not open there.
        """
        if self._outages is None:
            refused = self._outage(free_port(), "nobody listens")
            with held_port() as port:
                self._outages = (refused, self._outage(port, "nobody answers"))
        return self._outages

    def _outage(self, port: int, what: str) -> Outage:
        if self._aimed_at is None:
            raise ClauseSkipped("how to aim it at a port was not given")
        self.opened()
        self.ended()
        self._session = self.open(self._aimed_at(port))
        publishing = tuple(self.publish([_a_family()]) for _ in range(_OUTAGE_BATCHES))
        return Outage(what=what, publishing=publishing, closing=self.end())

    def end(self) -> Attempt[None]:
        """Closes the sink."""
        self._session = None
        return self._part.attempt("close()", self.sink.close, self.limits.close_s)

    def ended(self) -> None:
        """Closes the session, if one is open."""
        if self._session is not None:
            self.end()

    # Used

    def publish(self, families: Sequence[MetricFamily]) -> Attempt[None]:
        """One batch, whatever comes of it."""
        return self._part.attempt(
            "publish()", lambda: self.sink.publish(families), self.limits.publish_s
        )

    def deliver(self, families: Sequence[MetricFamily]) -> Attempt[None]:
        """One batch; the other side may be away. Raises ClauseFailure for any other raise."""
        attempt = self.publish(families)
        if attempt.error is not None and not isinstance(attempt.error, SinkUnavailable):
            raise ClauseFailure(f"publish() raises {described(attempt.error)}")
        return attempt

    def trace(self, requests: Sequence[Any]) -> Attempt[None]:
        return self._part.attempt(
            "trace()", lambda: self.sink.trace(requests), self.limits.publish_s
        )

    def exported(self, *families: MetricFamily) -> Collection[Sample]:
        """What can be read back of a batch. Raises ClauseSkipped when nothing can be read."""
        session = self.opened()
        read = self._read or self._scraper(session)
        self._batches += 1
        number = float(self._batches)
        batch = MetricFamily(
            name=_BATCH, kind="gauge", help="Which batch it is.", points=(MetricPoint((), number),)
        )
        self.deliver([*families, batch])
        give_up_at_s = time.monotonic() + self.limits.export_s
        while number not in values(samples := read(), _BATCH):
            if time.monotonic() > give_up_at_s:
                raise ClauseFailure(
                    f"what was published is not exported within {self.limits.export_s:g} s"
                )
            time.sleep(_POLL_S)
        return samples

    def _scraper(self, session: Session) -> Read:
        url = session.location.value or ""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK:
            raise ClauseSkipped("what it exports cannot be read back here")
        try:
            scrape(url)
        except (OSError, ValueError):
            raise ClauseSkipped(f"what is at {url} is no text of Prometheus") from None
        return lambda: scrape(url)

    # Ended

    def endings(self) -> Endings:
        """Ends it, and uses it once more. Raises ClauseSkipped."""
        if self._endings is None:
            self._endings = self._end_twice()
        return self._endings

    def close(self) -> None:
        """Ends what is open. Once."""
        if not self._part.is_stuck:
            self.ended()
        self._part.close()

    def _end_twice(self) -> Endings:
        self.opened()
        self.publish([_a_family()])
        before, own = self.before(), {self._part.thread}
        first = self.end()
        threads = surroundings.new_threads(before, own)
        processes = surroundings.new_processes(before)
        again = self._part.attempt("close()", self.sink.close, self.limits.close_s)
        between = surroundings.look()
        second_failure = None
        try:
            self._session = self.open()
            self._use_again()
        except (ClauseFailure, ClauseSkipped) as failure:
            second_failure = str(failure)
        self.ended()
        return Endings(
            first=first,
            again=again,
            threads=threads or surroundings.new_threads(before, own),
            processes=processes or surroundings.new_processes(before),
            descriptors=surroundings.more_descriptors(between),
            second_failure=second_failure,
        )

    def _use_again(self) -> None:
        """Raises ClauseFailure when what is published now is not exported."""
        family = _a_family()
        try:
            samples = self.exported(family)
        except ClauseSkipped:  # It cannot be read.
            self.deliver([family])
            return
        if not values(samples, family.name):
            raise ClauseFailure("what is published is not exported")


def _a_family() -> MetricFamily:
    points = (MetricPoint((), 1.0),)
    return MetricFamily(name="conformance_gauge", kind="gauge", help="A gauge.", points=points)


def values(
    samples: Collection[Sample], name: str, labels: Mapping[str, str] | None = None
) -> list[float]:
    """Those of a series; an empty label is none, and there may be further labels."""
    wanted = {(key, value) for key, value in (labels or {}).items() if value}
    names = (name, f"{name}_total")
    return [one.value for one in samples if one.name in names and wanted <= set(one.labels)]


def scrape(url: str) -> list[Sample]:
    """What Prometheus would read there. Raises OSError and ValueError."""
    with urllib.request.urlopen(url, timeout=_SCRAPE_TIMEOUT_S) as response:
        text = response.read().decode()
    return [sample for family in parse(text) for sample in family.samples]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port of this machine on which somebody listens, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _listening() -> set[tuple[str, int]]:
    return {
        (str(one.laddr[0]), int(one.laddr[1]))
        for one in psutil.Process().net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
