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

_STYLES = {
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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading, right in zip(headings, aligned_right, strict=True):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)


def note(text: str) -> None:
    """One remark for people, on stderr, so that stdout stays what was asked for."""
    click.echo(printable(text), err=True)


def paragraph(text: str = "") -> None:
    """One line of text for people on stdout; empty: a blank line between two tables."""
    click.echo(printable(text))
