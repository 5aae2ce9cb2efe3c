"""The comparison with nvidia-smi, which is played here by a program that asks the same fake."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_nvml import FakeNvml

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tools" / "compare_nvidia_smi.py"
MIB = 2**20

pytestmark = pytest.mark.skipif(
    not SCRIPT.exists(), reason="the comparison is only in the repository"
)

#: Answers --query-gpu=... --format=csv,noheader,nounits. $SMI_LIES: FIELD=TEXT of GPU 0, or
#: `without` for GPU 0 not being listed.
NVIDIA_SMI = """
import csv, os, sys
import pynvml as n

def memory(h):
    return n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)

def mib(count):
    return round(count / 2**20)

FIELDS = {
    "uuid": n.nvmlDeviceGetUUID,
    "index": n.nvmlDeviceGetIndex,
    "name": n.nvmlDeviceGetName,
    "pci.bus_id": lambda h: n.nvmlDeviceGetPciInfo(h).busId,
    "driver_version": lambda h: n.nvmlSystemGetDriverVersion(),
    "compute_cap": lambda h: "%d.%d" % tuple(n.nvmlDeviceGetCudaComputeCapability(h)),
    "serial": n.nvmlDeviceGetSerial,
    "memory.total": lambda h: mib(memory(h).total),
    "memory.reserved": lambda h: mib(memory(h).reserved),
    "memory.used": lambda h: mib(memory(h).used),
    "memory.free": lambda h: mib(memory(h).free),
    "utilization.gpu": lambda h: n.nvmlDeviceGetUtilizationRates(h).gpu,
    "temperature.gpu": lambda h: n.nvmlDeviceGetTemperature(h, 0),
    "power.draw": lambda h: "%.2f" % (n.nvmlDeviceGetPowerUsage(h) / 1000),
    "enforced.power.limit": lambda h: "%.2f" % (n.nvmlDeviceGetEnforcedPowerLimit(h) / 1000),
    "clocks.current.sm": lambda h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
    "clocks.current.memory": lambda h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM),
    "pcie.link.gen.current": n.nvmlDeviceGetCurrPcieLinkGeneration,
    "pcie.link.width.current": n.nvmlDeviceGetCurrPcieLinkWidth,
}

def told(name, handle):
    try:
        return FIELDS[name](handle)
    except n.NVMLError_NotSupported:
        return "[N/A]"

(query, form) = sys.argv[1:]
assert form == "--format=csv,noheader,nounits", form
names = query.removeprefix("--query-gpu=").split(",")
lie = os.environ.get("SMI_LIES", "").partition("=")
n.nvmlInit()
handles = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
rows = [{name: told(name, handle) for name in names} for handle in handles]
if lie[0] == "without":
    del rows[0]
elif lie[0]:
    rows[0][lie[0]] = lie[2]
for row in rows:
    print(", ".join(str(row[name]) for name in names))
"""

Compare = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def compare(fake_nvml: FakeNvml, tmp_path: Path) -> Compare:
    """Runs the comparison on the fake; `lies` is what nvidia-smi says instead of GPU 0's truth."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f"#!{sys.executable}\n{NVIDIA_SMI}")
    smi.chmod(0o755)
    env = fake_nvml.env() | {
        "PATH": f"{smi.parent}:{os.environ['PATH']}",
        # No controller of this machine's may answer for the fake.
        "MUAI_STATE_DIR": str(tmp_path / "state"),
    }

    def run(lies: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT)],
            env=env | {"SMI_LIES": lies},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def verdicts(done: subprocess.CompletedProcess[str], field: str) -> list[str]:
    """One word or two per GPU."""
    rows = [line.split("  ") for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [row[-1].strip() for row in rows if row[1].strip() == field]


def test_they_agree_on_every_field(fake_nvml: FakeNvml, compare: Compare) -> None:
    with fake_nvml.changes():
        for gpu in range(8):
            fake_nvml.set(
                gpu,
                memory_used_bytes=(1000 + gpu) * MIB + 5,
                temperature_celsius=40 + gpu,
                utilization_percent=10 + gpu,
            )
    done = compare()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "144 fields compared, 0 differ"
    assert verdicts(done, "temperature.gpu") == ["equal"] * 8
    assert verdicts(done, "serial") == ["equal"] * 8
    # nvidia-smi rounds to MiB.
    assert set(verdicts(done, "memory.used")) == {"close"}


@pytest.mark.parametrize(
    "lie",
    ["memory.total=1024", "temperature.gpu=99", "name=NVIDIA H100", "pcie.link.width.current=8"],
)
def test_a_field_that_differs_is_named(compare: Compare, lie: str) -> None:
    done = compare(lie)
    assert done.returncode == 1
    assert verdicts(done, lie.partition("=")[0]) == ["DIFFERS"] + ["equal"] * 7
    assert done.stdout.splitlines()[-1] == "144 fields compared, 1 differ"


def test_a_gpu_that_only_one_lists_differs(fake_nvml: FakeNvml, compare: Compare) -> None:
    done = compare("without")
    assert done.returncode == 1
    assert verdicts(done, "uuid") == ["DIFFERS"]
    assert fake_nvml.uuid(0) in done.stdout


def test_what_neither_knows_is_equal(fake_nvml: FakeNvml, compare: Compare) -> None:
    fake_nvml.set("*", {"utilization_percent": None, "memory_utilization_percent": None})
    done = compare()
    assert done.returncode == 0, done.stdout
    assert verdicts(done, "utilization.gpu") == ["equal"] * 8


def test_what_only_one_knows_is_told(compare: Compare) -> None:
    done = compare("power.draw=[N/A]")
    assert done.returncode == 0
    assert verdicts(done, "power.draw") == ["only one tells"] + ["close"] * 7
