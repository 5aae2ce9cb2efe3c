"""Collectors behind TLS."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from muai_otel import OtelSink
from otlp_collectors import Collector, Tls, wait_for
from requests import certs

from muai_core.model.metrics import MetricFamily, MetricPoint

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the program openssl to make certificates"
)
FAMILY = MetricFamily(name="muai_x", kind="gauge", help="Help.", points=(MetricPoint((), 1.0),))


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    made = Tls(tmp_path / "certificate.pem", tmp_path / "key.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=collector"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {made.key} -out {made.certificate}"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    return made


def test_the_certificate_to_trust_is_named(
    tls: Tls,
    start_collector: Callable[..., Collector],
    open_sink: Callable[..., OtelSink],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Many machines have it; the config is to win.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certs.where())
    collector = start_collector(tls=tls)
    open_sink(collector, certificate_file=str(tls.certificate)).publish([FAMILY])
    wait_for("metrics", lambda: collector.points("muai.x"))


def test_a_certificate_that_nobody_vouches_for_is_an_outage(
    tls: Tls,
    start_collector: Callable[..., Collector],
    open_sink: Callable[..., OtelSink],
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = start_collector(tls=tls)
    open_sink(collector).publish([FAMILY])
    wait_for("the line about the outage", lambda: caplog.records)
    (record,) = caplog.records
    assert "certificate" in record.getMessage().lower()
    assert not collector.all_metrics()
