"""Which device is meant: by UUID, or by the names that people read in tables."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Shorter beginnings of a UUID mean nothing.
_PREFIX_CHARACTERS = 8

Device = Mapping[str, Any]


class UnknownDevice(LookupError):
    """No device has this name; the text says which there are."""


class AmbiguousDevice(LookupError):
    """Several devices have this name; the text says how to name one of them."""


def device_name(device: Device) -> str:
    """How tables name a device: node, kind and index, e.g. 'sim/gpu0'; 'sim/gpu0:1' for MIG."""
    return f"{device['node']}/{device['kind']}{device['label']}"


def find_device(devices: Sequence[Device], name: str) -> Device:
    """The one device with this UUID or name; the node may be left out where that is clear.

    `box/gpu3`, `box/3`, `gpu3` and `3` all mean the same; so does the beginning of a UUID. Raises
    UnknownDevice or AmbiguousDevice.
    """
    wanted = name.strip()
    found = [device for device in devices if device["uuid"] == wanted]
    found = found or [device for device in devices if wanted in _names(device)]
    if not found and len(wanted) >= _PREFIX_CHARACTERS:
        found = [device for device in devices if device["uuid"].startswith(wanted)]
    if not found:
        known = ", ".join(map(device_name, devices)) or "none"
        raise UnknownDevice(f"there is no device {name!r}; there are: {known}")
    if len(found) > 1:
        meant = ", ".join(f"{device_name(device)} ({device['uuid']})" for device in found)
        raise AmbiguousDevice(f"{name!r} may be any of {meant}; name one of them in full")
    return found[0]


def _names(device: Device) -> set[str]:
    node, label = device["node"], device["label"]
    numbered = f"{device['kind']}{label}"
    return {label, numbered, f"{node}/{label}", f"{node}/{numbered}"}
