"""Options, OTEL_* variables and the files that they name."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from muai_otel import OtelSink
from muai_otel.config import OtelOptions
from muai_otel.settings import Collector, Signal, collector, export_interval_s
from pydantic import ValidationError

from muai_core.plugin.metric_sink import SinkError


def resolved(signal: Signal = "metrics", /, **given: Any) -> Collector:
    """From options in lower case and variables in upper case."""
    environ = {
        name if name.startswith("OTEL") else f"OTEL_EXPORTER_OTLP_{name}": value
        for name, value in given.items()
        if name.isupper()
    }
    options = {name: value for name, value in given.items() if not name.isupper()}
    return collector(OtelOptions.model_validate(options), signal, environ)


@pytest.mark.parametrize(
    ("given", "protocol", "endpoint", "tls"),
    [
        ({}, "grpc", "http://127.0.0.1:4317", False),
        ({"protocol": "http"}, "http", "http://127.0.0.1:4318/v1/metrics", False),
        ({"PROTOCOL": "http/protobuf"}, "http", "http://127.0.0.1:4318/v1/metrics", False),
        ({"protocol": "grpc", "PROTOCOL": "http/protobuf"}, "grpc", "http://127.0.0.1:4317", False),
        ({"METRICS_PROTOCOL": "grpc", "PROTOCOL": "http"}, "grpc", "http://127.0.0.1:4317", False),
        ({"endpoint": "https://c:4317", "ENDPOINT": "http://d:1"}, "grpc", "https://c:4317", True),
        ({"ENDPOINT": "https://c:4317"}, "grpc", "https://c:4317", True),
        ({"ENDPOINT": "c:4317"}, "grpc", "https://c:4317", True),
        ({"ENDPOINT": "c:4317", "INSECURE": "true"}, "grpc", "http://c:4317", False),
        (
            {"protocol": "http", "endpoint": "https://c/otlp/"},
            "http",
            "https://c/otlp/v1/metrics",
            True,
        ),
        ({"protocol": "http", "ENDPOINT": "http://c:1"}, "http", "http://c:1/v1/metrics", False),
        # The variable for one signal is taken as it is, says the specification.
        (
            {"protocol": "http", "METRICS_ENDPOINT": "http://c:1/push", "ENDPOINT": "http://d:1"},
            "http",
            "http://c:1/push",
            False,
        ),
    ],
)
def test_where_metrics_go(given: dict[str, str], protocol: str, endpoint: str, tls: bool) -> None:
    found = resolved(**given)
    assert (found.protocol, found.endpoint, found.tls) == (protocol, endpoint, tls)


def test_each_signal_has_its_own_place() -> None:
    given = {"protocol": "http", "TRACES_ENDPOINT": "http://t:1/spans", "ENDPOINT": "http://c:1"}
    assert resolved("metrics", **given).endpoint == "http://c:1/v1/metrics"
    assert resolved("traces", **given).endpoint == "http://t:1/spans"


def test_headers_of_the_file_win_over_those_of_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer from:file\n\n# comment\n")
    found = resolved(headers_file=str(file), HEADERS="authorization=x, X-Team=a%2Cb")
    assert found.headers == {"authorization": "Bearer from:file", "x-team": "a,b"}
    assert "Bearer" not in repr(found)


@pytest.mark.parametrize(
    ("milliseconds", "option", "seconds"),
    [(None, None, 10.0), ("2500", None, 2.5), ("2500", 7, 7.0)],
)
def test_how_often_metrics_go(
    milliseconds: str | None, option: float | None, seconds: float
) -> None:
    environ = {"OTEL_METRIC_EXPORT_INTERVAL": milliseconds} if milliseconds else {}
    assert export_interval_s(OtelOptions(export_interval_s=option), environ) == seconds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoint": "127.0.0.1:4317"}, "expected a URL"),
        ({"endpoint": "http://user:secret@c:4317"}, "headers_file"),
        ({"protocol": "http", "endpoint": "http://c:4318/v1/metrics"}, "they are added"),
        ({"metrics": False, "traces": False}, "both off"),
        ({"client_key_file": "key.pem"}, "belong together"),
        ({"headers": {"authorization": "secret"}}, "Extra inputs"),
        ({"sample_ratio": 1.5}, "less than or equal to 1"),
        ({"max_queued_spans": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        OtelOptions.model_validate(options)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'"),
        ({"TRACES_COMPRESSION": "zstd"}, "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION is 'zstd'"),
        ({"ENDPOINT": "http://user:s3cret@c:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT has a user"),
        ({"protocol": "http", "ENDPOINT": "nowhere"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"),
        ({"HEADERS": "authorization s3cret"}, "OTEL_EXPORTER_OTLP_HEADERS takes name=value"),
        ({"headers_file": "/no/such/file"}, "cannot read /no/such/file: No such file"),
        ({"CERTIFICATE": "/no/such.pem"}, "OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read"),
        ({"certificate_file": "/no/such.pem"}, "sinks.otel.certificate_file: cannot read"),
    ],
)
def test_surroundings_that_make_no_sense(given: dict[str, str], words: str) -> None:
    with pytest.raises(SinkError, match=words) as caught:
        resolved("traces", **given)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["authorization Bearer s3cret", "x\u00e4: s3cret", ": s3cret", "a b: s3cret", "a: s3cret\x07"],
)
def test_a_headers_file_that_makes_no_sense(text: str, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text(f"x-fine: yes\n{text}\n")
    with pytest.raises(SinkError, match="headers_file") as caught:
        resolved(headers_file=str(file))
    assert "s3cret" not in str(caught.value)


def test_a_broken_certificate_is_a_mistake_in_the_config(tmp_path: Path) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")
    for protocol in ("grpc", "http"):
        sink = OtelSink()
        options = {"protocol": protocol, "endpoint": "https://127.0.0.1:1"}
        with pytest.raises(SinkError, match="certificate"):
            sink.open(options | {"certificate_file": str(nonsense)})


def test_importing_the_hooks_is_light() -> None:
    program = (
        "import sys, muai_otel.hooks; muai_otel.hooks.muai_metric_sinks(); "
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('opentelemetry', 'grpc', 'google', 'requests', 'pydantic')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_the_sink_says_where_it_sends() -> None:
    sink = OtelSink()
    assert sink.location() is None
    sink.open({"endpoint": "http://127.0.0.1:9"})
    assert sink.location() == "http://127.0.0.1:9"
    sink.close()
    assert sink.location() is None
    sink.publish([])
    sink.trace([])
    sink.close()
