"""The alerts that the examples offer: promtool takes them, and they fire when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from muai_core.telemetry.catalogue import METRICS

ALERTS = Path(__file__).parents[3] / "examples" / "prometheus" / "alerts.yaml"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="needs the Debian package prometheus (apt-get install prometheus)",
)

#: What happens on two GPUs, a sample each 15 s: `a+bxn` starts at a and goes up by b, n times; `_`
#: is no sample. GPU 1 falls off the bus after 5 minutes, GPU 0 is fine.
SERIES = {
    'gpu_health_status{gpu_id="0"}': "1x100",
    'gpu_health_status{gpu_id="1"}': "1x20 0x80",
    'muai_gpu_last_success_timestamp_seconds{gpu_id="0"}': "0+15x100",
    'muai_gpu_last_success_timestamp_seconds{gpu_id="1"}': "0+15x20 300x80",
    'gpu_xid_errors_total{gpu_id="1",xid="79"}': "_x20 1x80",
    'gpu_temperature_celsius{gpu_id="0"}': "60x100",
    'gpu_temperature_celsius{gpu_id="1"}': "88x20 stale",
    'gpu_temperature_limit_celsius{gpu_id="0",limit="slowdown"}': "90x100",
    'gpu_temperature_limit_celsius{gpu_id="1",limit="slowdown"}': "90x20 stale",
    'gpu_clock_throttle_seconds_total{gpu_id="0",reason="thermal"}': "0+6x100",
    'gpu_ecc_errors_total{gpu_id="0",error_type="uncorrected",location="dram"}': "2x40 3x60",
    'gpu_row_remap_pending{gpu_id="0"}': "0x40 1x60",
    'muai_host_fault{source="nvml",kind="driver_not_loaded"}': "_x60 1x40",
    'muai_device_source_up{source="nvml"}': "1x80 0x20",
    'muai_model_replicas_desired{model="chat"}': "2x100",
    'muai_model_replicas{model="chat",state="ready"}': "2x20 1x80",
    'muai_replica_restarts_total{model="chat",replica="chat.1"}': "0x20 0+1x20 20x60",
}

#: Which alerts fire at which minute, by the label that tells them apart.
FIRING = {
    ("GpuUnwell", 4): [],
    ("GpuUnwell", 6): [{"gpu_id": "1"}],
    ("GpuSilent", 5): [],
    ("GpuSilent", 6): [{"gpu_id": "1"}],
    ("GpuXid", 4): [],
    ("GpuXid", 6): [{"gpu_id": "1", "xid": "79"}],
    ("GpuXid", 24): [],
    ("GpuMemoryWorn", 9): [],
    ("GpuMemoryWorn", 11): [{"gpu_id": "0", "error_type": "uncorrected", "location": "dram"}],
    ("GpuWantsReset", 15): [],
    ("GpuWantsReset", 21): [{"gpu_id": "0"}],
    ("GpuTooHot", 5): [{"gpu_id": "1"}],
    ("GpuTooHot", 7): [],
    ("GpuHeldDown", 12): [{"gpu_id": "0", "reason": "thermal"}],
    ("GpuDriverGone", 14): [],
    ("GpuDriverGone", 16): [{"source": "nvml", "kind": "driver_not_loaded"}],
    ("DeviceSourceDown", 20): [],
    ("DeviceSourceDown", 22): [{"source": "nvml"}],
    ("ModelShortOfReplicas", 9): [],
    ("ModelShortOfReplicas", 11): [{"model": "chat"}],
    ("ReplicaKeepsFailing", 4): [],
    ("ReplicaKeepsFailing", 8): [{"model": "chat", "replica": "chat.1"}],
}


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_promtool_accepts_the_alerts() -> None:
    promtool("check", "rules", ALERTS)


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    asked = set(re.findall(r"\b(?:gpu|muai)_[a-z_]+\b", ALERTS.read_text(encoding="utf-8")))
    assert asked - {"gpu_id"} <= {metric.exposed_name for metric in METRICS}


def test_every_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    names = re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    assert {name for (name, _), labels in FIRING.items() if labels} == set(names)
    # Annotations are for people; promtool wants them all, so it gets the rules without.
    bare = re.sub(r"\n +annotations:\n.*", "", ALERTS.read_text(encoding="utf-8"))
    (tmp_path / "alerts.yaml").write_text(bare, encoding="utf-8")
    severities = dict(re.findall(r"alert: (\w+)\n(?:.*\n)*?.*severity: (\w+)", bare))
    story = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": series, "values": values} for series, values in SERIES.items()
                ],
                "alert_rule_test": [
                    {
                        "alertname": name,
                        "eval_time": f"{minute}m",
                        "exp_alerts": [
                            {"exp_labels": one | {"severity": severities[name]}} for one in labels
                        ],
                    }
                    for (name, minute), labels in FIRING.items()
                ],
            }
        ],
    }
    (tmp_path / "story.yaml").write_text(json.dumps(story), encoding="utf-8")
    promtool("test", "rules", tmp_path / "story.yaml")
