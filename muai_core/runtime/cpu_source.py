"""The host's own CPU and memory as a device."""

import platform
import socket
from functools import cache
from pathlib import Path

import psutil

from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.plugin.device_source import DeviceSource


class CpuSource(DeviceSource):
    """One device per node: its memory is the host's, its utilization that of all cores."""

    name = "cpu"

    def __init__(self) -> None:
        self._observed_before = False

    def observe(self, now_s: float) -> Inventory:
        memory = psutil.virtual_memory()
        node = socket.gethostname()
        device = Device(
            uuid=f"CPU-{node}",
            node=node,
            index=0,
            kind="cpu",
            platform="cpu",
            name=_cpu_name(),
            memory_total_bytes=memory.total,
            core_count=len(psutil.Process().cpu_affinity()),
        )
        used = memory.total - memory.available
        # It is the mean since the last call: the first figure is about no time at all.
        utilization_percent = psutil.cpu_percent(interval=None)
        reading = DeviceReading(
            uuid=device.uuid,
            memory_used_bytes=used,
            memory_foreign_bytes=max(0, used - _own_memory_bytes()),
            utilization_percent=utilization_percent if self._observed_before else None,
        )
        self._observed_before = True
        return Inventory(
            source=self.name, observed_at_s=now_s, devices=(device,), readings=(reading,)
        )


def _own_memory_bytes() -> int:
    """Memory of this process and all its descendants, without pages that files can give back."""
    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue  # It ended between the listing and the reading.
        total += max(0, memory.rss - getattr(memory, "shared", 0))
    return total


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
