"""From the options and the environment to what is sent where.

An option of the config wins over an OTEL_* variable; of those, the one for a single signal
(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) wins over the general one. OTEL_EXPORTER_OTLP_TIMEOUT is not
read: the specification counts it in milliseconds, the Python SDK in seconds.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from muai_core.plugin.metric_sink import SinkError
from muai_otel.config import OtelOptions

Protocol = Literal["grpc", "http"]
Signal = Literal["metrics", "traces"]

_PREFIX = "OTEL_EXPORTER_OTLP"
_PROTOCOLS: dict[str, Protocol] = {"grpc": "grpc", "http": "http", "http/protobuf": "http"}
_DEFAULT_ENDPOINTS = {"grpc": "http://127.0.0.1:4317", "http": "http://127.0.0.1:4318"}
_DEFAULT_INTERVAL_S = 10.0


class Collector(Struct, frozen=True, kw_only=True):
    """Where one signal goes, and how."""

    signal: Signal
    protocol: Protocol
    #: A URL; over HTTP with the signal's path.
    endpoint: str
    tls: bool
    #: Names in lower case. They may hold secrets and are not shown.
    headers: dict[str, str]
    certificate_file: str | None
    client_certificate_file: str | None
    client_key_file: str | None
    gzip: bool
    timeout_s: float

    @property
    def address(self) -> str:
        """The collector without the signal's path, for people."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc}"

    def __repr__(self) -> str:
        return f"Collector({self.signal} to {self.endpoint}, headers {sorted(self.headers)})"


def collector(options: OtelOptions, signal: Signal, environ: Mapping[str, str]) -> Collector:
    """Where `signal` goes. Reads the headers' file.

    Raises SinkError for a file that cannot be read and for a variable that makes no sense.
    """
    protocol = options.protocol or _protocol(signal, environ)
    endpoint, tls = _endpoint(options, signal, protocol, environ)
    found = Collector(
        signal=signal,
        protocol=protocol,
        endpoint=endpoint,
        tls=tls,
        headers=_headers(options, signal, environ),
        certificate_file=_file(options.certificate_file, environ, signal, "CERTIFICATE"),
        client_certificate_file=_file(
            options.client_certificate_file, environ, signal, "CLIENT_CERTIFICATE"
        ),
        client_key_file=_file(options.client_key_file, environ, signal, "CLIENT_KEY"),
        gzip=_compression(options, signal, environ) == "gzip",
        timeout_s=options.timeout_s,
    )
    if tls:
        _check_certificates(found)
    return found


def export_interval_s(options: OtelOptions, environ: Mapping[str, str]) -> float:
    """Seconds between two batches of metrics. Raises SinkError for a variable that is no number."""
    if options.export_interval_s is not None:
        return options.export_interval_s
    name = "OTEL_METRIC_EXPORT_INTERVAL"
    text = environ.get(name, "").strip()
    if not text:
        return _DEFAULT_INTERVAL_S
    if not text.isdecimal() or int(text) < 1:
        raise SinkError(f"sinks.otel: {name} is {text!r}; it takes milliseconds, such as 10000")
    return int(text) / 1000


def _variable(environ: Mapping[str, str], signal: Signal, name: str) -> tuple[str, str | None]:
    """Name and value of the variable for the signal, or the general one; empty ones are unset."""
    general = f"{_PREFIX}_{name}"
    for variable in (f"{_PREFIX}_{signal.upper()}_{name}", general):
        if value := environ.get(variable, "").strip():
            return variable, value
    return general, None


def _protocol(signal: Signal, environ: Mapping[str, str]) -> Protocol:
    variable, text = _variable(environ, signal, "PROTOCOL")
    if text is None:
        return "grpc"
    if text not in _PROTOCOLS:
        raise SinkError(f"sinks.otel: {variable} is {text!r}; possible are grpc and http/protobuf")
    return _PROTOCOLS[text]


def _compression(options: OtelOptions, signal: Signal, environ: Mapping[str, str]) -> str:
    variable, text = _variable(environ, signal, "COMPRESSION")
    chosen = options.compression or text or "none"
    if chosen not in ("gzip", "none"):
        raise SinkError(f"sinks.otel: {variable} is {chosen!r}; possible are gzip and none")
    return chosen


def _endpoint(
    options: OtelOptions, signal: Signal, protocol: Protocol, environ: Mapping[str, str]
) -> tuple[str, bool]:
    """The URL, and whether to use TLS."""
    variable, text = _variable(environ, signal, "ENDPOINT")
    if options.endpoint is not None or text is None:
        variable, text = "", options.endpoint or _DEFAULT_ENDPOINTS[protocol]
    scheme = urlsplit(text).scheme
    if protocol == "grpc" and scheme not in ("http", "https"):
        # gRPC's own form, host:port, is TLS unless the variable says otherwise.
        insecure = (_variable(environ, signal, "INSECURE")[1] or "").lower() == "true"
        text = f"{'http' if insecure else 'https'}://{text}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SinkError(
            f"sinks.otel: {variable} is no URL; write one such as http://127.0.0.1:4318"
        )
    if parts.username or parts.password:
        raise SinkError(
            f"sinks.otel: {variable} has a user or password in it; write an authorization header "
            f"into a file and name it as headers_file"
        )
    if protocol == "http" and not variable.endswith(f"_{signal.upper()}_ENDPOINT"):
        text = f"{text.rstrip('/')}/v1/{signal}"
    return text, parts.scheme == "https"


def _headers(options: OtelOptions, signal: Signal, environ: Mapping[str, str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    variable, text = _variable(environ, signal, "HEADERS")
    for pair in (text or "").split(","):
        if pair.strip():
            name, equals, value = pair.partition("=")
            if not equals or not _is_header(name.strip(), unquote(value.strip())):
                raise SinkError(f"sinks.otel: {variable} takes name=value, separated by commas")
            headers[name.strip().lower()] = unquote(value.strip())
    if options.headers_file is not None:
        headers.update(_read_headers(Path(options.headers_file).expanduser()))
    return headers


def _read_headers(path: Path) -> dict[str, str]:
    """The headers in a file. What it raises never tells their values."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise SinkError(f"sinks.otel.headers_file: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SinkError(f"sinks.otel.headers_file: {path} is not plain ASCII text") from None
    headers = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not _is_header(name.strip(), value.strip()):
            raise SinkError(
                f"sinks.otel.headers_file: {path}, line {number}: expected `name: value`"
            )
        headers[name.strip().lower()] = value.strip()
    return headers


def _is_header(name: str, value: str) -> bool:
    plain = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    return plain and value.isascii() and value.isprintable()


def _file(option: str | None, environ: Mapping[str, str], signal: Signal, name: str) -> str | None:
    """The path of a PEM file that can be read."""
    variable, text = _variable(environ, signal, name)
    text = option or text
    if text is None:
        return None
    where = f"sinks.otel.{name.lower()}_file" if option else f"sinks.otel: {variable}"
    path = Path(text).expanduser()
    try:
        with path.open("rb"):
            return str(path)
    except OSError as error:
        raise SinkError(f"{where}: cannot read {path}: {error.strerror}") from None


def _check_certificates(collector: Collector) -> None:
    """The exporters would fail with every batch, and not say why."""
    context = ssl.create_default_context()
    try:
        file = collector.certificate_file
        if file is not None:
            context.load_verify_locations(file)
        file = collector.client_certificate_file
        if file is not None:
            context.load_cert_chain(file, collector.client_key_file)
    except ssl.SSLError as error:
        reason = error.reason or error.strerror
        raise SinkError(f"sinks.otel: {file} is no PEM certificate that fits: {reason}") from None
