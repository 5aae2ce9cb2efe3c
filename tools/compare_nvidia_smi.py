"""Does MuAI see this machine's GPUs as nvidia-smi does? Compares them field by field.

    python tools/compare_nvidia_smi.py

Both are asked right after each other, so what moves (utilization, temperature, power, clocks) may
differ by a little. Exit status 1 when anything differs by more, 2 when one of them cannot be asked.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

MIB = 1024**2
_TIMEOUT_S = 60
_MEASURED = "measurements"


class Field(NamedTuple):
    """One thing that both tell: nvidia-smi's field, MuAI's, and how far apart they may be."""

    smi: str
    muai: str
    scale: float = 1.0
    tolerance: float = 0.0
    #: Labels of a measurement.
    labels: tuple[str, ...] = ()


FIELDS = (
    Field("index", "index"),
    Field("name", "name"),
    Field("pci.bus_id", "pci_bus_id"),
    Field("driver_version", "driver_version"),
    Field("compute_cap", "compute_capability"),
    Field("serial", "serial_number"),
    # nvidia-smi rounds to whole MiB.
    Field("memory.total", "memory_total_bytes", MIB, MIB),
    Field("memory.reserved", "memory_reserved_bytes", MIB, 64 * MIB),
    Field("memory.used", "memory_used_bytes", MIB, 64 * MIB),
    Field("memory.free", "memory_free_bytes", MIB, 64 * MIB),
    Field("utilization.gpu", "utilization_percent", 1.0, 20.0),
    Field("temperature.gpu", "temperature_celsius", 1.0, 5.0),
    Field("power.draw", "power_watts", 1.0, 50.0),
    Field("enforced.power.limit", "gpu_power_limit_watts", 1.0, 1.0),
    Field("clocks.current.sm", "gpu_clock_hertz", 1e6, 500e6, ("sm",)),
    Field("clocks.current.memory", "gpu_clock_hertz", 1e6, 500e6, ("memory",)),
    Field("pcie.link.gen.current", "gpu_pcie_link_generation", 1.0, 4.0),
    Field("pcie.link.width.current", "gpu_pcie_link_width"),
)


def main() -> int:
    """Print a row per GPU and field; returns the exit status."""
    try:
        rows = list(compare(_muai_devices(), _smi_gpus()))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"there is nothing to compare: {error}", file=sys.stderr)
        return 2
    width = max((len(field) for _, field, *_ in rows), default=0)
    for gpu, field, ours, theirs, verdict in rows:
        print(f"GPU {gpu}  {field:<{width}}  {ours:>36}  {theirs:>36}  {verdict}")
    differing = sum(verdict == "DIFFERS" for *_, verdict in rows)
    print(f"{len(rows)} fields compared, {differing} differ")
    return 1 if differing or not rows else 0


def compare(
    devices: Iterable[dict[str, Any]], gpus: dict[str, dict[str, str]]
) -> Iterable[tuple[str, str, str, str, str]]:
    """(GPU, field, MuAI's value, nvidia-smi's, verdict) of every GPU that either of them lists."""
    ours = {device["uuid"]: device for device in devices if device["kind"] == "gpu"}
    for uuid in [*ours, *(uuid for uuid in gpus if uuid not in ours)]:
        gpu = gpus.get(uuid, {}).get("index") or str(ours.get(uuid, {}).get("index"))
        if uuid not in ours or uuid not in gpus:
            seen = (uuid if uuid in ours else "-", uuid if uuid in gpus else "-")
            yield gpu, "uuid", *seen, "DIFFERS"
            continue
        for field in FIELDS:
            mine, theirs = _value(ours[uuid], field), gpus[uuid][field.smi]
            yield gpu, field.smi, str(mine), theirs, _verdict(mine, theirs, field)


def _verdict(mine: Any, theirs: str, field: Field) -> str:
    unknown = theirs.startswith("[") or theirs in ("N/A", "0" if field.smi == "serial" else "N/A")
    if mine is None or unknown:
        return "equal" if mine is None and unknown else "only one tells"
    if isinstance(mine, str):
        return "equal" if mine.casefold() == theirs.casefold() else "DIFFERS"
    apart = abs(float(mine) - float(theirs) * field.scale)
    if apart == 0:
        return "equal"
    return "close" if apart <= field.tolerance else "DIFFERS"


def _value(device: dict[str, Any], field: Field) -> Any:
    if field.muai in device:
        return device[field.muai]
    return next(
        (
            one["value"]
            for one in device.get(_MEASURED) or ()
            if one["metric"] == field.muai and tuple(one["labels"]) == field.labels
        ),
        None,
    )


def _muai_devices() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "muai_core.cli.main", "devices", "--json"]
    devices: list[dict[str, Any]] = json.loads(_output(command))
    return devices


def _smi_gpus() -> dict[str, dict[str, str]]:
    """UUID → field → text, as nvidia-smi prints it without units."""
    names = ["uuid", *(field.smi for field in FIELDS)]
    query = f"--query-gpu={','.join(names)}"
    text = _output(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
