"""The devices of `muai plan --devices`: specs and inventory files together as one inventory."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import structs

from muai_core.config.sources import is_file, resolve_path
from muai_core.model.device import Device, DeviceLink, DeviceReading, Inventory
from muai_core.runtime.fleet_spec import MOST_GPUS, Box, FleetError, parse_spec
from muai_core.runtime.imagined_devices import inventory_of
from muai_core.runtime.inventory_file import FILE_BYTES_MAX, parse_inventory, read_inventory

#: Stands for the standard input.
STDIN = "-"
_SUFFIXES = (".json", ".yaml", ".yml")


def read_hardware(texts: Iterable[str], stdin: Callable[[int], bytes]) -> Inventory:
    """All that the texts name: specs, files, and `-` for what `stdin` gives, up to so many bytes.

    Raises FleetError.
    """
    boxes: list[Box] = []
    devices: list[Device] = []
    readings: list[DeviceReading] = []
    links: list[DeviceLink] = []
    for text in texts:
        if text == STDIN:
            content = parse_inventory(_decoded(stdin(FILE_BYTES_MAX + 1)), "standard input")
        elif _is_file(text):
            content = read_inventory(resolve_path(text, Path.cwd()), text)
        else:
            boxes.append(parse_spec(text))
            continue
        boxes += content.boxes
        devices += content.devices
        readings += content.readings
        links += content.links
    made = inventory_of(boxes)
    return _checked(
        structs.replace(
            made,
            devices=(*made.devices, *devices),
            readings=(*made.readings, *readings),
            links=(*made.links, *links),
        )
    )


def _is_file(text: str) -> bool:
    return "/" in text or text.lower().endswith(_SUFFIXES) or is_file(Path(text))


def _decoded(data: bytes) -> str:
    if len(data) > FILE_BYTES_MAX:
        raise FleetError(f"standard input: more than {FILE_BYTES_MAX:,} bytes; that is the most")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FleetError("standard input: not UTF-8") from None


def _checked(inventory: Inventory) -> Inventory:
    devices = inventory.devices
    if not devices:
        raise FleetError("there are links but no devices; give the output of `muai devices --json`")
    if len(devices) > MOST_GPUS:
        raise FleetError(f"{len(devices)} devices; at most {MOST_GPUS} are possible")
    _no_duplicate("UUID", [device.uuid for device in devices])
    _no_duplicate("name", [f"{one.node}/{one.kind}{one.label}" for one in devices])
    known = {device.uuid for device in devices}
    for link in inventory.links:
        for uuid in (link.a, link.b):
            if uuid not in known:
                raise FleetError(f"a link names the device {uuid!r}, which is not listed")
    return inventory


def _no_duplicate(kind: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FleetError(f"two devices have the {kind} {name!r}; each has its own")
        seen.add(name)
