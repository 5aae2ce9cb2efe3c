"""The devices as a table: drawn with bars on a terminal, plain aligned text elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from muai_core.cli.output import STYLES, UNKNOWN, on_terminal, paragraph, print_table
from muai_core.cli.wording import duration, memory, quantity
from muai_core.config.errors import printable
from muai_core.planning.wording import GIB
from muai_core.runtime.device_names import device_name

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

Device = Mapping[str, Any]

#: A sample older than this is told to be old.
_OLD_S = 15.0
_MOST_PROCESSES = 3
_GAP = 2
_BAR_LEAST, _BAR_MOST = 8, 24
_NAME_LEAST = 12


def print_devices(
    devices: Sequence[Device], faults: Sequence[str] = (), quiet: bool = False
) -> None:
    """Faults of the host, then the devices.

    When there is no GPU a friendly word says so, unless it was told already (`quiet`).
    """
    lines = list(faults)
    if not lines and not quiet and not any(device["kind"] == "gpu" for device in devices):
        lines.append(_NO_GPU)
    for line in lines:
        paragraph(line)
    if on_terminal():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(drawn(devices, console))
    else:
        _print_plain(devices)


_NO_GPU = "No GPU was found; models run on the CPU."


def _print_plain(devices: Iterable[Device]) -> None:
    headings = ["device", "name", "memory", "used", "ours", "foreign", "free", "util", "temp"]
    rows = [
        [
            device_name(device),
            device["name"],
            memory(device["memory_total_bytes"]),
            memory(device["memory_used_bytes"]),
            memory(device["memory_own_bytes"]),
            memory(device["memory_foreign_bytes"]),
            memory(device["memory_free_bytes"]),
            quantity(device["utilization_percent"], "%"),
            _limited(device, "temperature", "celsius", "°C"),
            _limited(device, "power", "watts", "W"),
            device["health"],
            " ".join(device["replicas"]),
            why(device),
        ]
        for device in devices
    ]
    right = "memory, used, ours, foreign, free, util, temp, power"
    print_table([*headings, "power", "health", "replicas", "reason"], rows, right=right)


def why(device: Device) -> str:
    """What is wrong with it and what to do, in one line; empty: nothing."""
    return "; ".join(filter(None, (device["health_reason"], device["advice"])))


def _limited(device: Device, quantity_name: str, unit_name: str, unit: str) -> str:
    """A reading against its limit where that is known, e.g. '41/90 °C'."""
    value = device[f"{quantity_name}_{unit_name}"]
    limit = device[f"{quantity_name}_limit_{unit_name}"]
    if value is None or limit is None:
        return quantity(value, unit)
    return f"{value:.0f}/{limit:.0f} {unit}"


# --- on a terminal ------------------------------------------------------------------------------


class _Column(Struct, frozen=True):
    heading: str
    cells: "list[Text]"
    right: bool = False
    #: Columns with a higher number give way first; those with 0 never do.
    yields: int = 0

    @property
    def width(self) -> int:
        return max(len(self.heading), *(cell.cell_len for cell in self.cells))

    @property
    def is_empty(self) -> bool:
        return all(cell.plain in ("", UNKNOWN) for cell in self.cells)


def drawn(devices: Sequence[Device], console: "Console") -> "RenderableType":
    """The picture for a console of any width: what finds no room goes below its device."""
    from rich.console import Group
    from rich.text import Text

    if not devices:
        return Text("no devices")
    bars = _Bars(console.encoding)
    columns = [column for column in _columns(devices) if not column.is_empty]
    columns, bar_width = _fitted(columns, console.width)
    below = "replicas" not in [column.heading for column in columns]
    headings = [Text(column.heading, style="bold") for column in columns]
    lines: list[RenderableType] = [_line(headings, columns, None, bar_width)]
    for row, device in enumerate(devices):
        cells = [column.cells[row] for column in columns]
        lines.append(_line(cells, columns, bars.bar(device, bar_width), bar_width))
        lines.extend(_details(device, below))
    if bar_width:
        lines.append(bars.legend())
    return Group(*lines)


def _columns(devices: Sequence[Device]) -> list[_Column]:
    from rich.text import Text

    def column(heading: str, text: Any, yields: int = 0, right: bool = True) -> _Column:
        cells = [text(device) for device in devices]
        made = [cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells]
        return _Column(heading, made, right, yields)

    return [
        column("device", lambda d: Text(printable(device_name(d)), style="bold"), right=False),
        column("name", lambda d: d["name"], 5, right=False),
        column("used / total", _used_of_total),
        column("ours", lambda d: _gib(d["memory_own_bytes"]), 9),
        column("foreign", lambda d: _gib(d["memory_foreign_bytes"]), 8),
        column("free", lambda d: _gib(d["memory_free_bytes"]), 7),
        column("util", lambda d: quantity(d["utilization_percent"], "%"), 2),
        column("temp", _temperature, 3),
        column("power", lambda d: _limited(d, "power", "watts", "W"), 4),
        column("health", lambda d: Text(d["health"], STYLES.get(d["health"], "")), 0, right=False),
        column("replicas", lambda d: " ".join(d["replicas"]), 6, right=False),
    ]


def _gib(memory_bytes: int | None) -> str:
    return UNKNOWN if memory_bytes is None else f"{memory_bytes / GIB:.1f}"


def _used_of_total(device: Device) -> str:
    if device["memory_total_bytes"] is None:
        return UNKNOWN
    return f"{_gib(device['memory_used_bytes'])} / {_gib(device['memory_total_bytes'])} GiB"


def _temperature(device: Device) -> "Text":
    from rich.text import Text

    value, limit = device["temperature_celsius"], device["temperature_limit_celsius"]
    style = ""
    if value is not None and limit is not None and value > limit - 5:
        style = "red" if value >= limit else "yellow"
    return Text(_limited(device, "temperature", "celsius", "°C"), style)


def _fitted(columns: list[_Column], width: int) -> tuple[list[_Column], int]:
    """The columns that have room beside a bar, and the width of the bar; 0: no bar."""
    from rich.text import Text

    columns = list(columns)
    while (room := width - _width(columns)) < _BAR_LEAST + _GAP:
        last = max(columns, key=lambda column: column.yields)
        if last.yields == 0:
            break
        place = columns.index(last)
        shorter = last.width + room - _BAR_LEAST - _GAP
        if last.heading == "name" and shorter >= _NAME_LEAST:
            cells = [Text(cell.plain) for cell in last.cells]
            for cell in cells:
                cell.truncate(shorter, overflow="ellipsis")
            columns[place] = _Column(last.heading, cells, last.right, last.yields)
            continue
        del columns[place]
    bar_width = min(_BAR_MOST, room - _GAP)
    return columns, bar_width if bar_width >= _BAR_LEAST else 0


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _line(
    cells: "Sequence[Text]", columns: Sequence[_Column], bar: "Text | None", bar_width: int
) -> "Text":
    """One row; the bar stands before the column that tells the used memory."""
    from rich.text import Text

    parts = []
    for cell, column in zip(cells, columns, strict=True):
        if column.heading == "used / total" and bar_width:
            head = Text("memory", style="bold") if bar is None else bar
            head.align("left", bar_width)
            parts.append(head)
        padded = cell.copy()
        padded.align("right" if column.right else "left", column.width)
        parts.append(padded)
    line = Text(" " * _GAP, no_wrap=True, overflow="ellipsis").join(parts)
    line.rstrip()
    return line


def _details(device: Device, with_replicas: bool) -> "list[RenderableType]":
    """What stands below a device: its trouble, and what found no room."""
    from rich.padding import Padding
    from rich.text import Text

    style = STYLES.get(device["health"], "")
    texts = [(text, style) for text in (why(device),) if text]
    test = device["self_test"]
    if test is not None and test["ended_ago_s"] is None:
        texts.append(("a self-test is under way", "cyan"))
    age_s = device["sampled_ago_s"]
    if age_s is not None and age_s > _OLD_S:
        texts.append((f"last sample {duration(age_s)} ago", "yellow"))
    if with_replicas and device["replicas"]:
        texts.append((" ".join(device["replicas"]), ""))
    foreign = _foreign_processes(device)
    if foreign:
        texts.append((f"foreign: {foreign}", "dim"))
    return [Padding(Text(printable(text), text_style), (0, 0, 0, 4)) for text, text_style in texts]


def _foreign_processes(device: Device) -> str:
    """The largest of them, e.g. 'python 4711 (2.0 GiB)'."""
    found = [process for process in device["processes"] if process["own"] is False]
    found.sort(key=lambda process: -(process["memory_bytes"] or 0))
    told = [
        f"{process['name'] or 'process'} {process['pid']} ({memory(process['memory_bytes'])})"
        for process in found[:_MOST_PROCESSES]
    ]
    if len(found) > _MOST_PROCESSES:
        told.append(f"{len(found) - _MOST_PROCESSES} more")
    return ", ".join(told)


class _Bars:
    """Memory as a bar: what is ours, foreign, reserved by the driver, and free."""

    _PARTS = (("ours", "█#", "green"), ("foreign", "▓x", "yellow"), ("reserved", "▒=", "dim"))
    _FREE = ("free", "░.", "dim")

    def __init__(self, encoding: str) -> None:
        self._mark = 0 if "utf" in encoding.lower() else 1

    def bar(self, device: Device, width: int) -> "Text":
        """Whatever is not zero shows; a device that tells nothing has an empty bar."""
        from rich.text import Text

        text, left = Text(), width
        for (_, marks, style), share in zip(self._PARTS, _shares(device), strict=True):
            cells = min(left, max(1, round(share * width))) if share > 0 else 0
            text.append(marks[self._mark] * cells, style)
            left -= cells
        if device["memory_used_bytes"] is not None:
            text.append(self._FREE[1][self._mark] * left, self._FREE[2])
        return text

    def legend(self) -> "Text":
        from rich.text import Text

        text = Text()
        for name, marks, style in (*self._PARTS, self._FREE):
            text.append(marks[self._mark], style).append(f" {name}  ", "dim")
        text.rstrip()
        return text


def _shares(device: Device) -> tuple[float, float, float]:
    """Of the whole memory: ours, foreign, reserved. What nobody can tell apart is ours up to what
    the replicas claim."""
    total = device["memory_total_bytes"] or 1
    used = device["memory_used_bytes"] or 0
    own = device["memory_own_bytes"]
    if own is None:
        own = min(used, device["memory_claimed_bytes"])
    return own / total, (used - own) / total, (device["memory_reserved_bytes"] or 0) / total
