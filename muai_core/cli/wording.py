"""Numbers, times and devices in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muai_core.cli.output import UNKNOWN
from muai_core.planning.wording import gib
from muai_core.runtime.device_names import device_name


def memory(memory_bytes: int | None) -> str:
    return UNKNOWN if memory_bytes is None else gib(memory_bytes)


def quantity(value: float | None, unit: str) -> str:
    """A reading without false precision, e.g. '41 °C'."""
    return UNKNOWN if value is None else f"{value:.0f} {unit}"


def text(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def duration(seconds: float) -> str:
    """The two largest units, e.g. '2 h 5 min'; seconds keep one digit below ten."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shape(tensor_parallel_size: int, pipeline_parallel_size: int) -> str:
    return f"TP {tensor_parallel_size} x PP {pipeline_parallel_size}"


def device_ranges(devices: Iterable[Mapping[str, Any]]) -> str:
    """Labels in the given order, runs of neighbours shortened: 'sim/gpu0-3 sim/gpu6'."""
    runs: list[list[Mapping[str, Any]]] = []
    for device in devices:
        if runs and _follows(runs[-1][-1], device):
            runs[-1].append(device)
        else:
            runs.append([device])
    return " ".join(_run_label(run) for run in runs)


def _follows(before: Mapping[str, Any], device: Mapping[str, Any]) -> bool:
    if ":" in before["label"] + device["label"]:
        return False
    place = (before["node"], before["kind"], before["index"] + 1)
    return place == (device["node"], device["kind"], device["index"])


def _run_label(run: Sequence[Mapping[str, Any]]) -> str:
    if len(run) == 1:
        return device_name(run[0])
    return f"{device_name(run[0])}-{run[-1]['index']}"
