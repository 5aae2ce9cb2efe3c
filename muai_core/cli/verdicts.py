"""What became of each device that was considered, with equal verdicts on one line."""

from collections.abc import Iterable, Mapping
from typing import Any

from muai_core.cli.output import UNKNOWN, print_table
from muai_core.cli.wording import device_ranges, memory


def print_verdicts(considered: Iterable[Mapping[str, Any]]) -> None:
    """Print verdicts, each with device (None: the whole fleet), verdict, filter and message."""
    grouped: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for one in considered:
        key = (one["verdict"], one["filter"] or UNKNOWN, _because(one))
        devices = grouped.setdefault(key, [])
        if one["device"] is not None:
            devices.append(one["device"])
    rows = [
        [device_ranges(devices) or "all", verdict, filter_name, because]
        for (verdict, filter_name, because), devices in grouped.items()
    ]
    if rows:
        print_table(["device", "verdict", "filter", "because"], rows)


def _because(one: Mapping[str, Any]) -> str:
    claimed_bytes = one.get("claimed_bytes")
    if claimed_bytes is not None:
        return f"claims {memory(claimed_bytes)}"
    return one["message"] or UNKNOWN
