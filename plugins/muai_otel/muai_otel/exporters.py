"""The exporters of the OpenTelemetry SDK, made quiet and talkative in the right places.

They write to the log at every try and only return FAILURE. Here their log records of our own
threads are caught, and what they say becomes the reason of one exception.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import requests
from grpc import (  # type: ignore[import-untyped]
    ChannelCredentials,
    StatusCode,
    ssl_channel_credentials,
)
from grpc import Compression as GrpcCompression
from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc_metrics
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_traces
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http import metric_exporter as http_metrics
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_traces

from muai_otel.settings import Collector

_LOGGERS = "opentelemetry."
_TRANSIENT_CODES = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
_TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})
_REASON_LENGTH = 200
#: Connections are otherwise shared by all channels of the process, and with them a pause between
#: two tries that grows to two minutes: a collector that is back would go unnoticed for so long.
_CHANNEL_OPTIONS: Any = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 5000),
)


class ExportFailed(Exception):
    """The collector did not take a batch. The text says why."""

    def __init__(self, reason: str, *, transient: bool) -> None:
        super().__init__(reason)
        #: Whether the same batch may be taken later; else the collector does not want it.
        self.transient = transient


class SdkExporter(Protocol):
    """What metric and span exporters of the SDK have in common."""

    def export(self, batch: Any, /) -> Any: ...

    def shutdown(self) -> Any: ...


class Exporter:
    """One signal's way to the collector. `send` from one thread, `close` from any."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._session = RememberingSession() if collector.protocol == "http" else None
        self._exporter = _sdk_exporter(collector, self._session)
        self._catch = _catch_records()

    def send(self, batch: Any) -> None:
        """Blocks until the collector took the batch, for its `timeout_s` at most.

        Raises ExportFailed.
        """
        caught = self._catch.begin()
        if self._session is not None:
            self._session.failure = None
        try:
            result = self._exporter.export(batch)
        except Exception as error:
            raise ExportFailed(_in_words(error), transient=True) from error
        finally:
            self._catch.end()
        # The exporter takes a redirection for a success.
        redirected = self._session is not None and self._session.failure is not None
        if result.name != "SUCCESS" or redirected:
            raise self._failure(caught)

    def close(self) -> None:
        """Break off what is being sent, as far as possible, and let go of the connection."""
        self._catch.begin()
        try:
            self._exporter.shutdown()
        finally:
            self._catch.end()

    def _failure(self, caught: Sequence[logging.LogRecord]) -> ExportFailed:
        if self._session is not None and self._session.failure is not None:
            return self._session.failure
        for record in reversed(caught):
            arguments = record.args if isinstance(record.args, tuple) else ()
            for code in arguments:
                if isinstance(code, StatusCode):
                    details = arguments[-1] if isinstance(arguments[-1], str) else ""
                    reason = _grpc_reason(code, details, self._collector.timeout_s)
                    return ExportFailed(reason, transient=code in _TRANSIENT_CODES)
        said = caught[-1].getMessage() if caught else "the exporter does not say why"
        return ExportFailed(_short(said), transient=True)


class RememberingSession(requests.Session):
    """An HTTP session that knows how its last request failed."""

    failure: ExportFailed | None = None

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        # Said here, or else REQUESTS_CA_BUNDLE would win over the certificates of the config.
        kwargs.setdefault("verify", self.verify)
        try:
            response = super().request(*args, **kwargs)
        except requests.RequestException as error:
            self.failure = ExportFailed(_in_words(error), transient=True)
            raise
        status = response.status_code
        self.failure = None
        if not 200 <= status < 300:
            self.failure = ExportFailed(
                f"HTTP status {status} {response.reason}", transient=status in _TRANSIENT_STATUSES
            )
        return response


class CaughtRecords(logging.Filter):
    """Takes the exporters' log records of those threads that asked for it out of the log."""

    def __init__(self) -> None:
        super().__init__()
        self._of_thread = threading.local()

    def begin(self) -> list[logging.LogRecord]:
        """From now on, records of this thread go into the list that is returned."""
        caught: list[logging.LogRecord] = []
        self._of_thread.caught = caught
        return caught

    def end(self) -> None:
        self._of_thread.caught = None

    def filter(self, record: logging.LogRecord) -> bool:
        caught = getattr(self._of_thread, "caught", None)
        if caught is None:
            return True
        caught.append(record)
        return False


_caught_records = CaughtRecords()


def _catch_records() -> CaughtRecords:
    """The filter, in front of all others: some exporters filter what they said before."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if not name.startswith(_LOGGERS) or not isinstance(logger, logging.Logger):
            continue
        if _caught_records not in logger.filters:
            logger.filters.insert(0, _caught_records)
    return _caught_records


def _sdk_exporter(collector: Collector, session: requests.Session | None) -> SdkExporter:
    """Every argument is given, so that the exporters have nothing to look up in the environment."""
    is_metrics = collector.signal == "metrics"
    if session is None:
        over_grpc = grpc_metrics.OTLPMetricExporter if is_metrics else grpc_traces.OTLPSpanExporter
        return over_grpc(
            endpoint=collector.endpoint,
            insecure=not collector.tls,
            credentials=_credentials(collector) if collector.tls else None,
            headers=tuple(collector.headers.items()),
            timeout=collector.timeout_s,
            compression=GrpcCompression.Gzip if collector.gzip else GrpcCompression.NoCompression,
            channel_options=_CHANNEL_OPTIONS,
        )
    over_http = http_metrics.OTLPMetricExporter if is_metrics else http_traces.OTLPSpanExporter
    return over_http(
        endpoint=collector.endpoint,
        certificate_file=collector.certificate_file,
        client_certificate_file=collector.client_certificate_file,
        client_key_file=collector.client_key_file,
        headers=collector.headers,
        timeout=collector.timeout_s,
        compression=HttpCompression.Gzip if collector.gzip else HttpCompression.NoCompression,
        session=session,
    )


def _credentials(collector: Collector) -> ChannelCredentials:
    return ssl_channel_credentials(
        root_certificates=_content(collector.certificate_file),
        private_key=_content(collector.client_key_file),
        certificate_chain=_content(collector.client_certificate_file),
    )


def _content(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _grpc_reason(code: StatusCode, details: str, timeout_s: float) -> str:
    if code is StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout_s:g} s"
    # "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:4317: Failed ..."
    innermost = details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    return _short(f"{innermost} ({code.name})" if innermost else str(code.name))


def _in_words(error: BaseException) -> str:
    """The innermost cause that the operating system names; libraries wrap it many times."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    inner: BaseException | None = error
    found = ""
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            found = inner.strerror
        inner = inner.__cause__ or inner.__context__
    return _short(found or f"{type(error).__name__}: {error}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]}..."
