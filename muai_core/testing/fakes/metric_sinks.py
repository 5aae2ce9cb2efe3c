"""A fake metric sink that keeps the whole contract, but for one defect.

It answers every connection with the last batch as Prometheus reads it, and sends word of each batch
to another port if it is told one.
"""

import math
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.model.requests import RequestRecord
from muai_core.plugin.hookspecs import hookimpl
from muai_core.plugin.metric_sink import MetricSink, SinkError, SinkUnavailable

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Defect → the number of the clause that it breaks.
METRIC_SINK_DEFECTS: dict[str, str] = {
    "is_neither_on_nor_off": "S01",
    "accepts_any_option": "S02",
    "slow_to_import": "S03",
    "hooks_raise": "S04",
    "opens_too_slowly": "S10",
    "wants_every_request_twice": "S11",
    "raises_what_it_finds_at_a_taken_port": "S12",
    "thinks_long_about_its_place": "S13",
    "listens_everywhere": "S14",
    "hides_devices_from_engines": "S15",
    "takes_no_empty_batch": "S20",
    "is_slow_with_many_series": "S21",
    "forgets_histograms": "S22",
    "drops_quotes": "S23",
    "says_zero_for_unknown": "S24",
    "keeps_what_has_ended": "S25",
    "adds_up": "S26",
    "traces_only_what_was_answered": "S30",
    "waits_for_the_other_side": "S40",
    "raises_what_it_finds_at_the_other_side": "S41",
    "closes_too_slowly": "S50",
    "is_confused_by_a_second_close": "S51",
    "leaves_a_thread": "S52",
    "leaves_a_process": "S53",
    "leaves_a_descriptor": "S54",
    "exports_nothing_twice": "S55",
}

_HOST = "127.0.0.1"
#: Longer than any thread or process of a fake is of use.
_LEFT_FOR_S = 30.0
_CONNECT_TIMEOUT_S = 0.5
_MANY = 10_000
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


@hookimpl
def muai_metric_sinks() -> Sequence[MetricSink]:
    return [FakeSink()]


class FakeSink(MetricSink):
    """`defect` is one of `METRIC_SINK_DEFECTS`, or none."""

    name = "fake"

    def __init__(self, defect: str = "", too_long_s: float = 10.0) -> None:
        """`too_long_s`: what is too long for the limits in force."""
        self._defect = defect
        self._too_long_s = too_long_s
        if defect == "is_neither_on_nor_off":
            self.on_by_default = "sometimes"  # type: ignore[assignment]
        self._server: socket.socket | None = None
        self._answering: threading.Thread | None = None
        self._port = 0
        self._target: int | None = None
        self._families: Sequence[MetricFamily] = ()
        #: The last batch before it was closed.
        self._exported: Sequence[MetricFamily] = ()
        #: Metric and labels → the sample that is exported.
        self._samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._left: list[object] = []

    def options_model(self) -> "type[BaseModel]":
        from pydantic import BaseModel, ConfigDict

        extra = "ignore" if self._defect == "accepts_any_option" else "forbid"

        class FakeOptions(BaseModel):
            model_config = ConfigDict(extra=extra)  # type: ignore[typeddict-item]

            port: int = 9999
            target: int | None = None

        return FakeOptions

    def trace_sample_ratio(self, options: Mapping[str, Any]) -> float | None:
        return 2.0 if self._defect == "wants_every_request_twice" else 0.5

    def open(self, options: Mapping[str, Any]) -> None:
        if self._defect == "opens_too_slowly":
            time.sleep(self._too_long_s)
        host = "0.0.0.0" if self._defect == "listens_everywhere" else _HOST
        try:
            self._server = socket.create_server((host, options["port"]))
        except OSError as error:
            if self._defect == "raises_what_it_finds_at_a_taken_port":
                raise
            raise SinkError(f"port {options['port']}: {error.strerror}; set port") from error
        self._port = self._server.getsockname()[1]
        self._target = options["target"]
        self._samples = {}
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()
        self._leave()

    def _leave(self) -> None:
        if self._defect == "hides_devices_from_engines":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if self._defect == "leaves_a_thread":
            wait = threading.Event()
            threading.Thread(target=wait.wait, args=(_LEFT_FOR_S,), daemon=True).start()
        if self._defect == "leaves_a_process":
            self._left.append(subprocess.Popen(["sleep", f"{_LEFT_FOR_S:g}"]))
        if self._defect == "leaves_a_descriptor":
            self._left.append(tempfile.TemporaryFile())  # noqa: SIM115

    def location(self) -> str | None:
        if self._defect == "thinks_long_about_its_place":
            time.sleep(self._too_long_s)
        return f"http://{_HOST}:{self._port}/metrics"

    def publish(self, families: Sequence[MetricFamily]) -> None:
        if self._defect == "takes_no_empty_batch" and not families:
            raise IndexError("there is no first metric")
        many = sum(len(family.points) for family in families) > _MANY
        if self._defect == "is_slow_with_many_series" and many:
            time.sleep(self._too_long_s)
        if self._defect == "exports_nothing_twice":
            families = [family for family in families if family not in self._exported]
        self._families, before = families, self._samples
        samples = {
            (name, labels): value
            for family in families
            for point in family.points
            for name, labels, value in self._samples_of(family, point, before)
        }
        kept = before if self._defect == "keeps_what_has_ended" else {}
        self._samples = {**kept, **samples}
        if self._target is not None:
            self._send(self._target)

    def _samples_of(
        self,
        family: MetricFamily,
        point: MetricPoint,
        before: Mapping[tuple[str, tuple[tuple[str, str], ...]], float],
    ) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
        labels = tuple(zip(family.label_names, point.labels, strict=True))
        if self._defect == "drops_quotes":
            labels = tuple((name, value.replace('"', "")) for name, value in labels)
        if family.kind == "histogram":
            if self._defect != "forgets_histograms":
                yield f"{family.name}_count", labels, float(point.count)
                yield f"{family.name}_sum", labels, point.total
            return
        value = point.value
        if self._defect == "says_zero_for_unknown" and math.isnan(value):
            value = 0.0
        name = family.name
        if family.kind == "counter":
            name = f"{name}_total"
            if self._defect == "adds_up":
                value += before.get((name, labels), 0.0)
        yield name, labels, value

    def _send(self, port: int) -> None:
        if self._defect == "waits_for_the_other_side":
            time.sleep(self._too_long_s)
        try:
            with socket.create_connection((_HOST, port), _CONNECT_TIMEOUT_S) as connection:
                connection.sendall(b"%d\n" % len(self._samples))
        except OSError as error:
            if self._defect == "raises_what_it_finds_at_the_other_side":
                raise
            raise SinkUnavailable(f"{_HOST}:{port}: {error.strerror}") from error

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        for one in requests:
            if self._defect == "traces_only_what_was_answered" and one.first_token_s is None:
                raise TypeError("first_token_s is None")

    def close(self) -> None:
        server, answering = self._server, self._answering
        if server is None or answering is None:
            if self._defect == "is_confused_by_a_second_close":
                raise RuntimeError("it is not open")
            return
        self._server = self._answering = None
        if self._defect == "closes_too_slowly":
            time.sleep(self._too_long_s)
        if self._defect == "hides_devices_from_engines":
            del os.environ["CUDA_VISIBLE_DEVICES"]
        server.shutdown(socket.SHUT_RDWR)  # Closing alone does not wake who waits in accept().
        answering.join()
        server.close()
        self._exported = self._families

    def _answer(self) -> None:
        server = self._server
        while server is not None:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # It was closed.
            with connection:
                connection.recv(65536)
                body = "".join(map(_line, self._samples.items())).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close"
                connection.sendall(f"{head}\r\n\r\n".encode() + body)


def _line(sample: tuple[tuple[str, tuple[tuple[str, str], ...]], float]) -> str:
    (name, labels), value = sample
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"{name}{{{pairs}}} {value!r}\n"


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)
