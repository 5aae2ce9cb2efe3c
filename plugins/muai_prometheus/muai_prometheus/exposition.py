"""What a scrape gets: the last batch, and the controller's own process."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import structs
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from muai_core.model.metrics import MetricFamily, MetricKind, MetricPoint
from muai_prometheus.text import render


class Exposition:
    """The text of one scrape. A series that the last batch does not have has ended."""

    def __init__(self) -> None:
        self._families: Sequence[MetricFamily] = ()
        # Of a registry of its own: what other code of the process exposes is not MuAI's.
        self._process = ProcessCollector(registry=CollectorRegistry())
        #: By format: each family that was rendered last, by name, and its text.
        self._texts: dict[bool, dict[str, tuple[MetricFamily, str]]] = {False: {}, True: {}}

    def publish(self, families: Sequence[MetricFamily]) -> None:
        """Replace the batch. Safe while another thread renders: that one keeps the old batch."""
        self._families = families

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type, in the best format that the `Accept` header names."""
        _, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        parts = self._rendered(_merged(self._families, self._process_families()), openmetrics)
        if openmetrics:
            parts.append("# EOF\n")
        return "".join(parts).encode(), content_type

    def _rendered(self, families: Sequence[MetricFamily], openmetrics: bool) -> list[str]:
        """Families that are the same as in the last scrape, as most are, keep their text."""
        before, now = self._texts[openmetrics], {}
        for family in families:
            known = before.get(family.name)
            if known is None or known[0] != family:
                known = (family, render(family, openmetrics=openmetrics))
            now[family.name] = known
        self._texts[openmetrics] = now
        return [text for _, text in now.values()]

    def _process_families(self) -> Iterator[MetricFamily]:
        for metric in self._process.collect():
            points = tuple(MetricPoint((), sample.value) for sample in metric.samples)
            kind: MetricKind = "counter" if metric.type == "counter" else "gauge"
            yield MetricFamily(
                name=metric.name, kind=kind, help=metric.documentation, points=points
            )


def _merged(families: Sequence[MetricFamily], own: Iterable[MetricFamily]) -> list[MetricFamily]:
    """All of them; where an engine's process tells the same as ours, in one family."""
    found = {family.name: family for family in families}
    for family in own:
        theirs = found.get(family.name)
        if theirs is None:
            found[family.name] = family
        elif theirs.kind == family.kind:
            unlabelled = ("",) * len(theirs.label_names)
            points = (structs.replace(point, labels=unlabelled) for point in family.points)
            found[family.name] = structs.replace(theirs, points=(*points, *theirs.points))
    return list(found.values())
