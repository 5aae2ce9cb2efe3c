"""The lines by which the API is known, run as a program on simulated GPUs."""

import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, urllib.request
from muai_core.api import (
    GPUInfo, GPUManager, GPUMonitor, create_gpu_monitor, get_gpu_manager
)
from muai_prometheus import PrometheusExporter

config, port = sys.argv[1], int(sys.argv[2])
assert isinstance(get_gpu_manager(config=config), GPUManager)

manager = get_gpu_manager()
gpus = manager.detect_gpus()
assert [type(gpu) for gpu in gpus] == [GPUInfo] * 4
allocation = manager.allocate_gpus(tensor_parallel=2, pipeline_parallel=2)
assert allocation.stages == [[0, 1], [2, 3]]
assert manager.check_health(0).healthy
assert sorted(manager.get_metrics()) == [0, 1, 2, 3]

exporter = PrometheusExporter(port=port)
exporter.start_server()

def scraped():
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()

exporter.record_per_gpu_metrics(
    gpu_id=0,
    memory_used_mb=8192,
    memory_available_mb=7808,
    utilization_percent=75.5,
    temperature_celsius=65.0,
    is_healthy=True,
)
assert 'gpu_memory_used_bytes{gpu_id="0"} 8589934592' in scraped(), scraped()
exporter.record_all_gpu_metrics(manager)
assert 'gpu_health_status{gpu_id="3"} 1' in scraped(), scraped()

monitor = create_gpu_monitor(
    prometheus_exporter=exporter, monitoring_interval=5.0, auto_start=True
)
assert isinstance(monitor, GPUMonitor)
while not monitor.samples:
    assert not monitor.failures, monitor.last_failure
monitor.stop()
assert not monitor.running
print(scraped())
"""


def test_the_known_lines_run(simulated_config: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(simulated_config), str(port)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for gauge in (
        "gpu_memory_used_bytes",
        "gpu_memory_available_bytes",
        "gpu_utilization_percent",
        "gpu_temperature_celsius",
        "gpu_health_status",
    ):
        for gpu_id in range(4):
            assert f'\n{gauge}{{gpu_id="{gpu_id}"}} ' in done.stdout


def test_without_any_gpu_the_lines_say_so_in_a_friendly_way(tmp_path: Path) -> None:
    config = tmp_path / "muai.yaml"
    config.write_text(
        "devices: {sources: [cpu]}\nmodels: {chat: {source: 'simulated:chat', engine: simulated}}\n"
    )
    program = """
import sys
from muai_core.api import AllocationError, create_gpu_monitor, get_gpu_manager

manager = get_gpu_manager(config=sys.argv[1])
assert manager.detect_gpus() == []
assert manager.get_metrics() == {}
monitor = create_gpu_monitor()
monitor.stop()
try:
    manager.allocate_gpus(tensor_parallel=2, pipeline_parallel=2)
except AllocationError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "no GPU was found\n", "")
