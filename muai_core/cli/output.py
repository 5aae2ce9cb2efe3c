"""What commands print: tables for people, JSON for scripts.

On a terminal tables are drawn by rich; elsewhere, and with NO_COLOR, they are plain aligned text.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from muai_core.config.errors import printable

UNKNOWN = "-"

#: Blanks between two columns on a terminal.
_GAP = 2
#: Columns of text are not made narrower than this.
_PROSE_AT_LEAST = 16

STYLES = {
    "ready": "green",
    "healthy": "green",
    "ok": "green",
    "working": "green",
    "chosen": "green",
    "starting": "cyan",
    "pending": "yellow",
    "backoff": "yellow",
    "recovering": "yellow",
    "degraded": "yellow",
    "suspect": "yellow",
    "unknown": "yellow",
    "failing": "red",
    "failed": "red",
    "abandoned": "red",
    "disabled": "dim",
    UNKNOWN: "dim",
}


CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def json_option(function: CommandT) -> CommandT:
    """Adds the flag `--json` (parameter `as_json`) to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def on_terminal() -> bool:
    """Whether output may be drawn and coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> None:
    """Print rows under headings; `right` names the columns of numbers, separated by commas."""
    numbers = frozenset(name.strip() for name in right.split(","))
    aligned_right = [heading in numbers for heading in headings]
    cells = [[printable(cell) or UNKNOWN for cell in row] for row in rows]
    if on_terminal():
        _draw(headings, cells, aligned_right)
    else:
        click.echo(plain_table(headings, cells, aligned_right))


def plain_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], aligned_right: Sequence[bool]
) -> str:
    """Aligned columns, two spaces apart, without trailing blanks."""
    lines = [[heading.upper() for heading in headings], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, aligned_right, strict=True)
        ).rstrip()
        for line in lines
    )


def _draw(
    headings: Sequence[str], rows: Sequence[Sequence[str]], aligned_right: Sequence[bool]
) -> None:
    """Columns without any value are left out; where it is narrow, only text is broken."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [i for i in range(len(headings)) if not rows or any(row[i] != UNKNOWN for row in rows)]
    columns = [[headings[i], *(row[i] for row in rows)] for i in shown]
    right = [aligned_right[i] for i in shown]
    widths = [max(map(cell_len, column)) for column in columns]
    prose = [
        not number and _is_prose(column) for number, column in zip(right, columns, strict=True)
    ]
    lines = [
        [Text(cell, style=STYLES.get(cell, "") if line else "bold") for cell in cells]
        for line, cells in enumerate(zip(*columns, strict=True))
    ]
    console = Console()
    least = [
        min(width, _PROSE_AT_LEAST) if text else width
        for text, width in zip(prose, widths, strict=True)
    ]
    if sum(least) + _GAP * (len(shown) - 1) > console.width:
        # Too narrow for whole names and numbers: as in a plain table, the terminal breaks lines.
        for cells in lines:
            for cell, width, number in zip(cells, widths, right, strict=True):
                cell.align("right" if number else "left", width)
            joined = Text(" " * _GAP).join(cells)
            joined.rstrip()
            console.print(joined, soft_wrap=True)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    for number, text in zip(right, prose, strict=True):
        table.add_column(justify="right" if number else "left", overflow="fold", no_wrap=not text)
    for cells in lines:
        table.add_row(*cells)
    console.print(table)


def _is_prose(texts: Sequence[str]) -> bool:
    """Whether a column holds text that may be broken between words."""
    return any(" " in text and len(text) > _PROSE_AT_LEAST for text in texts)


def note(text: str) -> None:
    """One remark for people, on stderr, so that stdout stays what was asked for."""
    click.echo(printable(text), err=True)


def paragraph(text: str = "") -> None:
    """One line of text for people on stdout; empty: a blank line between two tables."""
    click.echo(printable(text))
