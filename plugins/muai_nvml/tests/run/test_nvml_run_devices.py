"""`muai devices --json` beside pynvml, asked directly in another process, field by field."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from fake_nvml import FakeNvml
from running_on_fake import Running

MIB = 2**20
#: In a process of its own: a row per GPU, with nothing of MuAI's in it.
ASK_NVML = """[
    (lambda h, memory, pci, capability: {
        "uuid": n.nvmlDeviceGetUUID(h),
        "index": n.nvmlDeviceGetIndex(h),
        "name": n.nvmlDeviceGetName(h),
        "serial_number": n.nvmlDeviceGetSerial(h),
        "pci_bus_id": pci.busId,
        "compute_capability": "%d.%d" % tuple(capability),
        "driver_version": n.nvmlSystemGetDriverVersion(),
        "cuda_version": "%d.%d" % divmod(n.nvmlSystemGetCudaDriverVersion() // 10, 100),
        "memory_total_bytes": memory.total,
        "memory_used_bytes": memory.used,
        "memory_reserved_bytes": memory.reserved,
        "memory_free_bytes": memory.free,
        "utilization_percent": n.nvmlDeviceGetUtilizationRates(h).gpu,
        "temperature_celsius": n.nvmlDeviceGetTemperature(h, 0),
        "power_watts": n.nvmlDeviceGetPowerUsage(h) / 1000,
        "power_limit_watts": n.nvmlDeviceGetEnforcedPowerLimit(h) / 1000,
        "processes": [
            {"pid": p.pid, "memory_bytes": p.usedGpuMemory}
            for p in n.nvmlDeviceGetComputeRunningProcesses(h)
        ],
        "measured": {
            "gpu_clock_hertz sm": 1e6 * n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
            "gpu_clock_hertz memory": 1e6 * n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM),
            "gpu_pcie_link_generation": n.nvmlDeviceGetCurrPcieLinkGeneration(h),
            "gpu_pcie_link_width": n.nvmlDeviceGetCurrPcieLinkWidth(h),
            "gpu_energy_joules": n.nvmlDeviceGetTotalEnergyConsumption(h) * 1e-3,
            "gpu_pcie_replays": n.nvmlDeviceGetPcieReplayCounter(h),
        },
    })(h, n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2), n.nvmlDeviceGetPciInfo(h),
       n.nvmlDeviceGetCudaComputeCapability(h))
    for h in map(gpu, range(n.nvmlDeviceGetCount()))
]"""


def give_different_values(fake: FakeNvml) -> None:
    with fake.changes():
        for gpu in range(8):
            fake.set(
                gpu,
                memory_total_bytes=(140_000 + gpu) * MIB,
                memory_reserved_bytes=(500 + gpu) * MIB,
                memory_used_bytes=(20_000 + 100 * gpu) * MIB,
                utilization_percent=40 + gpu,
                temperature_celsius=50 + gpu,
                power_mw=300_000 + 1_001 * gpu,
                power_enforced_limit_mw=400_000 + 1_000 * gpu,
                energy_mj=10**9 + 12_345 * gpu,
                clock_mhz__sm=1_100 + gpu,
                clock_mhz__memory=1_200 + gpu,
                pcie_replays=gpu,
            )
            fake.processes(gpu, (os.getpid(), (1_000 + gpu) * MIB))


def as_asked(device: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What MuAI tells of the fields that NVML was asked for."""
    told = {name: device[name] for name in asked if name in device}
    told["processes"] = [
        {"pid": one["pid"], "memory_bytes": one["memory_bytes"]} for one in device["processes"]
    ]
    told["measured"] = {
        name: one["value"]
        for one in device["measurements"]
        if (name := " ".join([one["metric"], *one["labels"]])) in asked["measured"]
    }
    return told


def gpus_of(printed: str) -> list[dict[str, Any]]:
    return [one for one in json.loads(printed) if one["kind"] == "gpu"]


@pytest.mark.parametrize("profile", ["h200", "l4"])
def test_a_running_controller_tells_what_nvml_tells(
    start_muai: Callable[..., Running], start_nvml_process: Callable[..., Any], profile: str
) -> None:
    running = start_muai(profile=profile, given=give_different_values)
    asked = start_nvml_process(running.fake).ask(ASK_NVML)
    assert len(asked) == 8

    devices = gpus_of(running.muai("devices", "--json"))
    assert [as_asked(one, row) for one, row in zip(devices, asked, strict=True)] == asked


def test_without_a_controller_the_command_looks_for_itself(
    start_muai: Callable[..., Running], start_nvml_process: Callable[..., Any]
) -> None:
    running = start_muai(given=give_different_values)
    assert running.stop() == 0
    asked = start_nvml_process(running.fake).ask(ASK_NVML)
    devices = gpus_of(running.muai("devices", "--json"))
    assert [as_asked(one, row) for one, row in zip(devices, asked, strict=True)] == asked
    assert {one["health"] for one in devices} == {"healthy"}
    assert running.probes() == []
