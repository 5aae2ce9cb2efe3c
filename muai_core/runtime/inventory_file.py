"""Devices from a file: what `muai devices --json` printed, or boxes described by hand in YAML."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from muai_core.config.errors import ConfigError, Origin
from muai_core.config.reading import read_text
from muai_core.config.tree import Node
from muai_core.config.yaml_text import parse_yaml
from muai_core.model.cards import CARDS, GpuKind
from muai_core.model.device import (
    Device,
    DeviceKind,
    DeviceLink,
    DeviceReading,
    LinkKind,
    Platform,
)
from muai_core.model.health import Finding, Health
from muai_core.runtime.fleet_spec import (
    MOST_GPUS,
    Box,
    BoxLink,
    CardGroup,
    FleetError,
    checked,
    find_card,
    parse_spec,
)

#: A list of 10,000 devices has some 15 MB.
FILE_BYTES_MAX = 64 * 1024**2
_GIB = 2**30
_GIB_MAX = 16_384.0

Gib = float


class FileContent(Struct, frozen=True):
    """What a file holds: boxes, or devices with readings, or the links of such devices."""

    boxes: tuple[Box, ...] = ()
    devices: tuple[Device, ...] = ()
    readings: tuple[DeviceReading, ...] = ()
    links: tuple[DeviceLink, ...] = ()


def read_inventory(path: Path, shown: str) -> FileContent:
    """Reads the file; JSON when it begins like it, else YAML. Raises FleetError."""
    try:
        text = read_text(path, shown, "an inventory", FILE_BYTES_MAX)
    except ConfigError as error:
        problem = error.problems[0]
        raise FleetError(f"{problem.origin}: {problem.message}") from None
    return parse_inventory(text, shown)


def parse_inventory(text: str, shown: str) -> FileContent:
    """As `read_inventory`, for text that was read already."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            found = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise FleetError(f"{shown}: no JSON: {error or 'nested too deeply'}") from None
        if isinstance(found, dict) and "nodes" in found:
            return _boxes(found, lambda _: shown)
        return _recorded(found, shown)
    try:
        node = parse_yaml(text, lambda line: Origin("file", shown, line))
    except ConfigError as error:
        problem = error.problems[0]
        raise FleetError(f"{problem.origin}: {problem.message}") from None
    return _boxes(node.plain(), lambda path: _place(node, path))


# --- printed by muai devices --------------------------------------------------------------------


class _Recorded(Struct, frozen=True, kw_only=True):
    """One of `devices[]` in docs/cli.md: the keys that a plan needs."""

    uuid: str
    node: str
    index: int
    kind: DeviceKind
    platform: Platform
    name: str
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_foreign_bytes: int | None = None
    island: str | None = None
    pci_bus_id: str | None = None
    compute_capability: str | None = None
    cuda_index: int | None = None
    mig_index: int | None = None
    parent_uuid: str | None = None
    serial_number: str | None = None
    vendor: str | None = None
    architecture: str | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    numa_node: int | None = None
    cpu_affinity: str | None = None
    core_count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    present: bool = True
    health: Health = Health.HEALTHY
    health_reason: str | None = None
    advice: str | None = None


class _Report(Struct, frozen=True):
    """What the controller's socket answers to `GET /v1/devices`; also a status."""

    devices: list[Any]
    links: list[DeviceLink] = []


_WANTED = (
    "expected the output of `muai devices --json`, with or without --topology, "
    "or a mapping with `nodes`"
)


def _recorded(found: Any, shown: str) -> FileContent:
    links: Sequence[DeviceLink] = ()
    if isinstance(found, dict):
        if "devices" not in found:
            raise FleetError(f"{shown}: {_WANTED}; found the keys {_few(found)}")
        report = _converted(found, _Report, lambda _: shown)
        found, links = report.devices, report.links
    if not isinstance(found, list) or not found:
        raise FleetError(f"{shown}: {_WANTED}; found no devices in it")
    if isinstance(found[0], dict) and {"a", "b"} <= set(found[0]):
        return FileContent(links=tuple(_converted(found, list[DeviceLink], lambda _: shown)))
    rows = _converted(found, list[_Recorded], lambda _: shown)
    if len(rows) > MOST_GPUS:
        raise FleetError(f"{shown}: {len(rows)} devices; at most {MOST_GPUS} are possible")
    present = [row for row in rows if row.present]
    for row in present:
        _check_recorded(row, shown)
    return FileContent(
        devices=tuple(_device(row) for row in present),
        readings=tuple(_reading(row) for row in present),
        links=tuple(links),
    )


def _check_recorded(row: _Recorded, shown: str) -> None:
    total = row.memory_total_bytes or 0
    for key in ("total", "used", "reserved", "foreign"):
        value = getattr(row, f"memory_{key}_bytes") or 0
        most = int(_GIB_MAX) * _GIB if key == "total" else total
        if not 0 <= value <= most:
            raise FleetError(
                f"{shown}: device {row.uuid!r}: memory_{key}_bytes is {value}; "
                f"it may be 0 to {most}"
            )
    if not row.uuid or not row.node or row.index < 0:
        raise FleetError(f"{shown}: device {row.uuid!r}: needs a uuid, a node and an index from 0")


def _device(row: _Recorded) -> Device:
    facts = {name: getattr(row, name) for name in Device.__struct_fields__}
    return Device(**{**facts, "memory_total_bytes": row.memory_total_bytes or 0})


def _reading(row: _Recorded) -> DeviceReading:
    """What MuAI itself held when this was recorded is free again in a plan."""
    findings: tuple[Finding, ...] = ()
    if row.health is not Health.HEALTHY:
        reason = row.health_reason or f"{row.health.value} when it was recorded"
        findings = (
            Finding(
                kind="recorded",
                severity=row.health,
                reason=reason,
                advice=row.advice or "",
                clears="at_once",
            ),
        )
    return DeviceReading(
        uuid=row.uuid,
        findings=findings,
        memory_used_bytes=row.memory_used_bytes,
        memory_reserved_bytes=row.memory_reserved_bytes,
        memory_foreign_bytes=row.memory_foreign_bytes,
    )


# --- described by hand --------------------------------------------------------------------------


class _CustomCard(Struct, frozen=True, forbid_unknown_fields=True):
    """A card that is not in the catalogue."""

    name: str
    memory_gib: Gib
    compute_capability: str | None = None
    nvlinks: int = 0


class _Group(Struct, frozen=True, forbid_unknown_fields=True):
    card: str | _CustomCard
    count: int = 1
    foreign_gib: Gib = 0.0
    island_size: int | None = None


class _Link(Struct, frozen=True, forbid_unknown_fields=True):
    between: tuple[int, int]
    kind: LinkKind
    nvlinks: int = 0


class _Node(Struct, frozen=True, forbid_unknown_fields=True):
    gpus: list[str | _Group]
    name: str | None = None
    count: int = 1
    foreign_gib: dict[str, Gib] = {}
    links: list[_Link] = []


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    nodes: list[_Node]


_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_STRUCTS: dict[str, type[Struct]] = {
    "gpus": _Group,
    "card": _CustomCard,
    "links": _Link,
    "nodes": _Node,
}

#: Where a value stands, in words, by its path.
Place = Callable[[tuple[str | int, ...]], str]


def _boxes(found: Any, place: Place) -> FileContent:
    if not isinstance(found, dict) or "nodes" not in found:
        raise FleetError(f"{place(())}: {_WANTED}")
    file = _converted(found, _File, place)
    if not file.nodes:
        raise FleetError(f"{place(('nodes',))} nodes: there must be at least one node")
    return FileContent(
        boxes=tuple(
            _box(node, _below(place, ("nodes", number))) for number, node in enumerate(file.nodes)
        )
    )


def _below(place: Place, root: tuple[str | int, ...]) -> Place:
    return lambda path: place((*root, *path))


def _box(node: _Node, place: Place) -> Box:
    groups: list[CardGroup] = []
    for number, group in enumerate(node.gpus):
        where = place(("gpus", number))
        try:
            made = parse_spec(group).groups if isinstance(group, str) else (_group(group),)
        except FleetError as error:
            raise FleetError(f"{where}: {error}") from None
        groups += made
    if node.name is not None and not _NODE_NAME.fullmatch(node.name):
        raise FleetError(
            f"{place(('name',))}: {node.name!r} is no name of a node; it begins with a letter or "
            "a digit and goes on with those, '.', '_' and '-'"
        )
    box = Box(
        name=node.name,
        count=node.count,
        groups=tuple(groups),
        links=tuple(
            BoxLink(between=one.between, kind=one.kind, nvlinks=one.nvlinks) for one in node.links
        ),
    )
    box = checked(box, place(()))
    cards = [group.card for group in box.groups for _ in range(group.count)]
    for number, link in enumerate(box.links):
        a, b = link.between
        if a == b or min(a, b) < 0 or max(a, b) >= len(cards) or not 0 <= link.nvlinks <= 64:
            raise FleetError(
                f"{place(('links', number))}: a link lies between two different GPUs, "
                f"0 to {len(cards) - 1}, and has 0 to 64 NVLinks"
            )
    foreign = {}
    for index, held in node.foreign_gib.items():
        where = place(("foreign_gib", index))
        if not index.isascii() or not index.isdecimal() or int(index) >= len(cards):
            raise FleetError(
                f"{where}: {index!r} is no GPU of this node; there are 0 to {len(cards) - 1}"
            )
        try:
            foreign[int(index)] = _foreign(held, cards[int(index)])
        except FleetError as error:
            raise FleetError(f"{where}: {error}") from None
    return msgspec.structs.replace(box, foreign_bytes=foreign)


def _group(group: _Group) -> CardGroup:
    name: str
    card: GpuKind
    if isinstance(group.card, str):
        found = find_card(group.card)
        name, card = found, CARDS[found]
    else:
        name, card = group.card.name, _custom(group.card)
    if group.island_size is not None and not (card.nvlink and group.island_size >= 1):
        raise FleetError("island_size: only of cards with NVLink, from 1")
    return CardGroup(
        name=name,
        card=card,
        count=group.count,
        foreign_bytes=_foreign(group.foreign_gib, card),
        island_size=group.island_size,
    )


def _custom(card: _CustomCard) -> GpuKind:
    if not 0 < card.memory_gib <= _GIB_MAX:
        raise FleetError(
            f"card.memory_gib: {card.memory_gib:g} is not possible; above 0, up to {_GIB_MAX:g}"
        )
    if not card.name or not 0 <= card.nvlinks <= 64:
        raise FleetError("card: needs a name, and 0 to 64 nvlinks")
    memory_bytes = int(card.memory_gib * _GIB)
    return GpuKind(
        marketing_name=card.name,
        memory_total_bytes=memory_bytes,
        memory_usable_bytes=memory_bytes,
        compute_capability=card.compute_capability,
        nvlinks=card.nvlinks,
    )


def _foreign(held_gib: Gib, card: GpuKind) -> int:
    usable_gib = card.memory_usable_bytes / _GIB
    if not 0 <= held_gib <= usable_gib:
        raise FleetError(
            f"foreign_gib: {held_gib:g} is not possible; the card has {usable_gib:.1f} GiB"
        )
    return int(held_gib * _GIB)


# --- checking -----------------------------------------------------------------------------------


def _converted(found: Any, wanted: Any, place: Place) -> Any:
    try:
        return msgspec.convert(found, wanted)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        path = _path(where.strip("`"))
        allowed = ""
        if "unknown field" in message:
            owner = next((part for part in reversed(path) if part in _STRUCTS), None)
            known = _STRUCTS.get(str(owner), _File).__struct_fields__
            allowed = f"; known: {', '.join(known)}"
        raise FleetError(f"{place(path)}: {_dotted(path)}{_plain(message)}{allowed}") from None


def _path(text: str) -> tuple[str | int, ...]:
    """`$.nodes[0].gpus[...]` as ('nodes', 0, 'gpus')."""
    parts = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", text)
    return tuple(int(number) if number else key for key, number in parts)


def _dotted(path: Iterable[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{text.lstrip('.')}: " if text else ""


def _plain(message: str) -> str:
    message = message.replace("Object contains unknown", "unknown")
    message = message.replace("Object missing required", "missing")
    return message[:1].lower() + message[1:]


def _place(node: Node, path: tuple[str | int, ...]) -> str:
    return str(node.nearest(path).origin)


def _few(found: dict[str, Any]) -> str:
    return ", ".join(sorted(map(str, found))[:8]) or "none"
