"""The devices of a plan as bars: whose bytes lie on them, and of what kind.

The same letters on terminals and elsewhere; terminals colour them by model.
"""

from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from muai_core.cli.output import STYLES, UNKNOWN, on_terminal, plain_table
from muai_core.cli.wording import device_ranges, memory
from muai_core.config.errors import printable

if TYPE_CHECKING:
    from rich.text import Text

Device = Mapping[str, Any]

_PLAIN_WIDTH = 40
_LEAST_WIDTH, _MOST_WIDTH = 10, 64
_GAP = "  "
_COLOURS = ("cyan", "green", "magenta", "blue", "bright_yellow", "bright_red")

_ACTIVATION, _OVERHEAD = "~", "+"
_FOREIGN, _RESERVE, _FREE = "x", "=", "."
_MEANINGS = {
    _ACTIVATION: "activation",
    _OVERHEAD: "overhead",
    _FOREIGN: "foreign",
    _RESERVE: "reserve",
    _FREE: "free",
}


class Segment(Struct, frozen=True):
    """A part of a bar: how many bytes, the letter for them, and their colour."""

    size_bytes: int
    letter: str
    style: str = ""


def print_bars(devices: Mapping[str, Device], models: Sequence[str]) -> None:
    """A line for each device, neighbours with equal memory on one; then what the letters mean.

    `models` gives the letters: the first is A.
    """
    rows = list(_rows(devices.values(), models))
    if on_terminal():
        _draw(rows)
    else:
        _print_plain(rows)


class _Row(Struct, frozen=True):
    devices: list[Device]
    segments: tuple[Segment, ...]
    #: Name, claimed, free, foreign, health, replicas.
    cells: tuple[str, ...]


_HEADINGS = ("device", "memory", "name", "claimed", "free", "foreign", "health", "replicas")
_RIGHT = (False, False, False, True, True, True, False, False)


def _rows(devices: Any, models: Sequence[str]) -> Iterator[_Row]:
    """Neighbours that hold the same are one row."""
    open_row: _Row | None = None
    for device in devices:
        row = _Row(
            [device],
            tuple(segments_of(device, models)),
            (
                f"{device['name']}, {memory(device['capacity_bytes'])}",
                memory(device["claimed_bytes"]),
                memory(device["free_bytes"]),
                memory(device["foreign_bytes"]),
                device["health"],
                " ".join(device["claims"]),
            ),
        )
        if open_row is not None and (open_row.segments, open_row.cells) == (
            row.segments,
            row.cells,
        ):
            open_row.devices.append(device)
            continue
        if open_row is not None:
            yield open_row
        open_row = row
    if open_row is not None:
        yield open_row


def segments_of(device: Device, models: Sequence[str]) -> Iterator[Segment]:
    """The device's memory from left to right: claims by model and kind, what others hold, free."""
    letters = {name: ascii_uppercase[i % 26] for i, name in enumerate(models)}
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(models)}
    for replica, kinds in device["claims_by_kind"].items():
        model = replica.rpartition(".")[0]
        letter, colour = letters.get(model, "?"), colours.get(model, "")
        whole = kinds["weights_bytes"] + kinds["undivided_bytes"]
        yield Segment(whole, letter, f"bold {colour}".strip())
        yield Segment(kinds["kv_cache_bytes"], letter.lower(), colour)
        yield Segment(kinds["activation_bytes"], _ACTIVATION, colour)
        yield Segment(kinds["overhead_bytes"], _OVERHEAD, colour)
    yield Segment(device["foreign_bytes"] or 0, _FOREIGN, "yellow")
    yield Segment(_reserved(device), _RESERVE, "dim")
    yield Segment(device["free_bytes"], _FREE, "dim")


def _reserved(device: Device) -> int:
    """What is neither allocatable nor foreign: the driver's reserve and the config's."""
    taken: int = device["allocatable_bytes"] + (device["foreign_bytes"] or 0)
    capacity: int = device["capacity_bytes"]
    return max(0, capacity - taken)


def widths(segments: Sequence[Segment], width: int) -> list[int]:
    """Characters of each segment: in proportion, at least one for what is not zero.

    They sum up to `width` unless more segments than that are not zero.
    """
    total = sum(segment.size_bytes for segment in segments)
    if total <= 0:
        return [0] * len(segments)
    exact = [segment.size_bytes * width / total for segment in segments]
    found = [max(1, int(share)) if share > 0 else 0 for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (found[i] - exact[i], i))
    for i in by_rest:
        if sum(found) >= width:
            break
        found[i] += exact[i] > 0
    while sum(found) > width and max(found) > 1:
        found[found.index(max(found))] -= 1
    return found


def _bar(segments: Sequence[Segment], width: int) -> str:
    shares = zip(segments, widths(segments, width), strict=True)
    return "".join(segment.letter * cells for segment, cells in shares)


def _print_plain(rows: Sequence[_Row]) -> None:
    import click

    cells = [
        [printable(cell) or UNKNOWN for cell in (device_ranges(row.devices), bar, *row.cells)]
        for row in rows
        for bar in [_bar(row.segments, _PLAIN_WIDTH)]
    ]
    click.echo(plain_table(_HEADINGS, cells, _RIGHT))


def _draw(rows: Sequence[_Row]) -> None:
    """Label, bar and numbers; what has no room goes below."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    labels = [printable(device_ranges(row.devices)) for row in rows]
    label_width = max([len(label) for label in labels] + [len("device")])
    numbers = [tuple(row.cells[1:4]) for row in rows]
    columns = [
        max([len(column) for column in found] + [len(heading)])
        for heading, found in zip(_HEADINGS[3:6], zip(*numbers, strict=True), strict=True)
    ] or [0, 0, 0]
    taken = label_width + sum(columns) + len(_GAP) * 4
    width = min(_MOST_WIDTH, max(_LEAST_WIDTH, console.width - taken))
    head = [_HEADINGS[0].ljust(label_width), _HEADINGS[1].ljust(width)]
    head += [name.rjust(size) for name, size in zip(_HEADINGS[3:6], columns, strict=True)]
    console.print(Text(_GAP.join(head), style="bold"), soft_wrap=True)
    for label, row in zip(labels, rows, strict=True):
        line = Text(label.ljust(label_width), style="bold").append(_GAP)
        shares = zip(row.segments, widths(row.segments, width), strict=True)
        for segment, cells in shares:
            line.append(segment.letter * cells, segment.style or None)
        for number, size in zip(row.cells[1:4], columns, strict=True):
            line.append(_GAP + number.rjust(size), "not bold")
        console.print(line, soft_wrap=True)
        console.print(_below(row), soft_wrap=True)


def _below(row: _Row) -> "Text":
    from rich.text import Text

    name, health, replicas = row.cells[0], row.cells[4], row.cells[5]
    text = Text("    " + printable(name), style="dim")
    if health != "healthy":
        text.append(f", {health}", STYLES.get(health, ""))
    if replicas:
        text.append(f": {printable(replicas)}", "not dim")
    return text


def legend(models: Sequence[str], devices: Mapping[str, Device]) -> str:
    """What the letters that are used mean, in one line."""
    used = {
        segment.letter: None
        for device in devices.values()
        for segment in segments_of(device, models)
        if segment.size_bytes > 0
    }
    told = [
        f"{ascii_uppercase[i % 26]} {name}"
        for i, name in enumerate(models)
        if ascii_uppercase[i % 26] in used
    ]
    kinds = ["capitals weights"] if told else []
    if any(letter.islower() and letter != _FOREIGN for letter in used):
        kinds.append("small letters KV cache")
    kinds += [f"{mark} {word}" for mark, word in _MEANINGS.items() if mark in used]
    return "; ".join(filter(None, (", ".join(told), ", ".join(kinds))))
