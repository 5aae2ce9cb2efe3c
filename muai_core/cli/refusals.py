"""Why devices were refused, device by device, with equal reasons on one line."""

from collections.abc import Iterable, Mapping
from typing import Any

from muai_core.cli.output import print_table
from muai_core.cli.wording import device_ranges


def print_refusals(
    refusals: Iterable[Mapping[str, Any]], devices: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print refusals (device, filter, message); `devices` knows them by UUID."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for refusal in refusals:
        told = grouped.setdefault((refusal["filter"], refusal["message"]), [])
        if refusal["device"] in devices:
            told.append(devices[refusal["device"]])
    if not grouped:
        return
    rows = [
        [device_ranges(refused) or "all", filter_name, message]
        for (filter_name, message), refused in grouped.items()
    ]
    print_table(["refused", "by", "because"], rows)
