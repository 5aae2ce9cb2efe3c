"""Programs that know nothing of the fake show the numbers that it was given."""

import json
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml

BIN = Path(sys.executable).parent
MIB = 1 << 20
DEADLINE_S = 60.0


def given(gpu: int) -> dict[str, int]:
    """Values that differ from GPU to GPU and from key to key."""
    return {
        "memory_total_bytes": (80_000 + gpu) * MIB,
        "memory_reserved_bytes": (500 + gpu) * MIB,
        "memory_used_bytes": (20_000 + 100 * gpu) * MIB,
        "utilization_percent": 40 + gpu,
        "memory_utilization_percent": 20 + gpu,
        "encoder_percent": 10 + gpu,
        "decoder_percent": 1 + gpu,
        "temperature_celsius": 50 + gpu,
        "fan_percent": 60 + gpu,
        "power_mw": 300_000 + 1000 * gpu,
        "power_limit_mw": 500_000 + 1000 * gpu,
        "power_enforced_limit_mw": 400_000 + 1000 * gpu,
        "clock_mhz.graphics": 1000 + gpu,
        "clock_mhz.sm": 1100 + gpu,
        "clock_mhz.memory": 1200 + gpu,
        "clock_mhz.video": 1300 + gpu,
        "pcie_throughput_kibps.tx": 1024 * (7 + gpu),
        "pcie_throughput_kibps.rx": 1024 * (9 + gpu),
        "ecc.uncorrected.volatile": gpu,
    }


@pytest.fixture
def busy(fake_nvml: FakeNvml) -> FakeNvml:
    with fake_nvml.changes():
        for gpu in range(8):
            fake_nvml.set(gpu, given(gpu))
            fake_nvml.processes(gpu, (os.getpid(), (1000 + gpu) * MIB))
    return fake_nvml


def run(fake: FakeNvml, *command: str | Path) -> str:
    done = subprocess.run(
        [*map(str, command)], env=fake.env(), capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gpustat_shows_it(busy: FakeNvml) -> None:
    shown = json.loads(run(busy, BIN / "gpustat", "--json"))
    assert shown["driver_version"] == "580.95.05"
    for gpu, card in enumerate(shown["gpus"]):
        values = given(gpu)
        [process] = card.pop("processes")
        assert (process["pid"], process["gpu_memory_usage"]) == (os.getpid(), 1000 + gpu)
        assert card == {
            "index": gpu,
            "uuid": busy.uuid(gpu),
            "name": "NVIDIA H200",
            "temperature.gpu": values["temperature_celsius"],
            "fan.speed": values["fan_percent"],
            "utilization.gpu": values["utilization_percent"],
            "utilization.enc": values["encoder_percent"],
            "utilization.dec": values["decoder_percent"],
            "power.draw": values["power_mw"] // 1000,
            "enforced.power.limit": values["power_enforced_limit_mw"] // 1000,
            "memory.used": values["memory_used_bytes"] // MIB,
            "memory.total": values["memory_total_bytes"] // MIB,
        }
    assert len(shown["gpus"]) == 8


NVITOP = """
import json
from nvitop import Device
print(json.dumps([{
    "index": d.index, "uuid": d.uuid(), "name": d.name(), "bus_id": d.bus_id(),
    "serial": d.serial(), "memory": [d.memory_total(), d.memory_used(), d.memory_free()],
    "utilization": [d.gpu_utilization(), d.memory_utilization(), d.encoder_utilization(),
                    d.decoder_utilization()],
    "clocks": list(d.clock_infos()), "max_clocks": list(d.max_clock_infos()),
    "temperature": d.temperature(), "fan": d.fan_speed(),
    "power": [d.power_usage(), d.power_limit()],
    "pcie": [d.pcie_tx_throughput(), d.pcie_rx_throughput()],
    "ecc": d.total_volatile_uncorrected_ecc_errors(), "state": d.performance_state(),
    "modes": [d.persistence_mode(), d.display_active(), d.compute_mode(), d.mig_mode()],
    "capability": d.cuda_compute_capability(), "links": d.nvlink_link_count(),
    "processes": {pid: p.gpu_memory() for pid, p in d.processes().items()},
} for d in Device.all()]))
"""


def test_nvitop_reads_it(busy: FakeNvml) -> None:
    shown = json.loads(run(busy, sys.executable, "-c", NVITOP))
    for gpu, device in enumerate(shown):
        values = given(gpu)
        total, reserved, used = (
            values[f"memory_{kind}_bytes"] for kind in ("total", "reserved", "used")
        )
        clocks = ("graphics", "sm", "memory", "video")
        assert device == {
            "index": gpu,
            "uuid": busy.uuid(gpu),
            "name": "NVIDIA H200",
            "bus_id": busy.get(gpu, "pci_bus_id"),
            "serial": busy.get(gpu, "serial"),
            "memory": [total, used, total - reserved - used],
            "utilization": [
                values["utilization_percent"],
                values["memory_utilization_percent"],
                values["encoder_percent"],
                values["decoder_percent"],
            ],
            "clocks": [values[f"clock_mhz.{clock}"] for clock in clocks],
            "max_clocks": [1980, 1980, 3201, 1545],
            "temperature": values["temperature_celsius"],
            "fan": values["fan_percent"],
            "power": [values["power_mw"], values["power_limit_mw"]],
            "pcie": [values["pcie_throughput_kibps.tx"], values["pcie_throughput_kibps.rx"]],
            "ecc": gpu,
            "state": "P0",
            "modes": ["Enabled", "Disabled", "Default", "Disabled"],
            "capability": [9, 0],
            "links": 18,
            "processes": {str(os.getpid()): (1000 + gpu) * MIB},
        }
    assert len(shown) == 8


def test_nvitop_draws_it(busy: FakeNvml) -> None:
    drawn = run(busy, BIN / "nvitop", "--once", "--ascii", "--colorful")
    for gpu in range(8):
        assert re.search(rf"{50 + gpu}C +P0 +{300 + gpu}W / {500 + gpu}W", drawn), drawn


def test_nvitop_sees_mig_devices(fake_nvml: FakeNvml) -> None:
    uuids = fake_nvml.mig(1, 20 << 30, 40 << 30)
    script = """
import json
from nvitop import Device
print(json.dumps([[m.uuid(), m.memory_total()] for m in Device(1).mig_devices()]))
"""
    shown = json.loads(run(fake_nvml, sys.executable, "-c", script))
    assert shown == [[uuids[0], 20 << 30], [uuids[1], 40 << 30]]


@pytest.fixture
def exporter(busy: FakeNvml) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [BIN / "nvitop-exporter", "--bind-address", "127.0.0.1", "--hostname", "here"]
    command += ["--port", str(port), "--interval", "0.25"]
    process = subprocess.Popen(
        command, env=busy.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield f"http://127.0.0.1:{port}/metrics"
    process.kill()
    process.wait()


def scrape(url: str) -> dict[str, dict[str, float]]:
    """Metric -> UUID -> value, of the metrics that have one value a GPU."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            text = answer.read().decode()
    except urllib.error.URLError:
        return {}
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        match = re.match(r'(gpu_\w+)\{[^}]*index="\d+",uuid="([^"]+)"\} (\S+)', line)
        if match:
            found.setdefault(match[1], {})[match[2]] = float(match[3])
    return found


def wait_for(url: str, metric: str, uuid: str, accepted: Any) -> dict[str, dict[str, float]]:
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        found = scrape(url)
        if accepted(found.get(metric, {}).get(uuid, -1.0)):
            return found
        time.sleep(0.05)
    pytest.fail(f"{metric} of {uuid} never came")


def test_nvitop_exporter_serves_it(busy: FakeNvml, exporter: str) -> None:
    served = wait_for(exporter, "gpu_temperature_C", busy.uuid(7), lambda value: value == 57)
    for gpu in range(8):
        values = given(gpu)
        expected = {
            "gpu_utilization_Percentage": values["utilization_percent"],
            "gpu_memory_utilization_Percentage": values["memory_utilization_percent"],
            "gpu_encoder_utilization_Percentage": values["encoder_percent"],
            "gpu_decoder_utilization_Percentage": values["decoder_percent"],
            "gpu_memory_total_MiB": values["memory_total_bytes"] / MIB,
            "gpu_memory_used_MiB": values["memory_used_bytes"] / MIB,
            "gpu_clock_sm_MHz": values["clock_mhz.sm"],
            "gpu_clock_memory_MHz": values["clock_mhz.memory"],
            "gpu_power_usage_W": values["power_mw"] / 1000,
            "gpu_power_limit_W": values["power_limit_mw"] / 1000,
            "gpu_temperature_C": values["temperature_celsius"],
            "gpu_fan_speed_Percentage": values["fan_percent"],
            "gpu_pcie_tx_throughput_MiBps": 7 + gpu,
            "gpu_pcie_rx_throughput_MiBps": 9 + gpu,
        }
        shown = {metric: served[metric][busy.uuid(gpu)] for metric in expected}
        assert shown == expected


def test_nvitop_exporter_goes_on_without_a_lost_gpu(busy: FakeNvml, exporter: str) -> None:
    wait_for(exporter, "gpu_temperature_C", busy.uuid(2), lambda value: value == 52)
    with busy.changes():
        busy.lose(2)
        busy.set(3, temperature_celsius=99)
    served = wait_for(exporter, "gpu_temperature_C", busy.uuid(3), lambda value: value == 99)
    served = wait_for(exporter, "gpu_temperature_C", busy.uuid(2), math.isnan)
    assert served["gpu_temperature_C"][busy.uuid(3)] == 99


def test_gpustat_tells_of_a_lost_gpu(busy: FakeNvml) -> None:
    busy.lose(2)
    drawn = run(busy, BIN / "gpustat", "--no-color")
    assert "((GPU is lost))" in drawn
    assert "53°C" in drawn
