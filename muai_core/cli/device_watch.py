"""`muai devices --watch`: the picture again and again until Ctrl-C."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click
from msgspec import structs

from muai_core.cli.device_table import drawn, print_devices
from muai_core.cli.outlook import Picture
from muai_core.cli.output import note, paragraph

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: What a shell makes of a program that a SIGTERM ended.
_EXIT_TERMINATED = 128 + signal.SIGTERM

Look = Callable[[], Picture]


def watch(look: Look, interval_s: float, as_json: bool) -> None:
    """Show a picture every `interval_s` seconds; returns when interrupted.

    On a terminal each takes the place of the last; elsewhere, and as JSON, they follow each other.
    """
    try:
        with _terminated_in_order():
            if as_json:
                _lines(look, interval_s)
            elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
                _redrawn(look, interval_s)
            else:
                _snapshots(look, interval_s)
    except KeyboardInterrupt:
        return


def _lines(look: Look, interval_s: float) -> None:
    for picture in _fresh(_pictures(look, interval_s)):
        click.echo(json.dumps(picture.devices, ensure_ascii=False))


def _snapshots(look: Look, interval_s: float) -> None:
    for count, picture in enumerate(_fresh(_pictures(look, interval_s))):
        if count:
            paragraph()
        paragraph(_title(picture))
        for remark in picture.remarks():
            note(remark)
        print_devices(picture.devices, picture.faults(), quiet=bool(picture.absences))
        sys.stdout.flush()


def _redrawn(look: Look, interval_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    # It is redrawn with NO_COLOR, too, which asks for no colours.
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for picture in _pictures(look, interval_s):
            live.update(_page(picture, interval_s, console), refresh=True)


def _page(picture: Picture, interval_s: float, console: "Console") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from muai_core.config.errors import printable

    title = f"{_title(picture)}, every {interval_s:g} s; Ctrl-C ends"
    remarks = [Text(printable(words), style="yellow") for words in picture.remarks()]
    if picture.stale is not None:
        remarks.append(Text(printable(f"this is an old picture: {picture.stale}"), style="red"))
    faults = [Text(printable(words), style="red") for words in picture.faults()]
    return Group(Text(title, style="dim"), *remarks, *faults, drawn(picture.devices, console))


def _pictures(look: Look, interval_s: float) -> Iterator[Picture]:
    """At once, then every interval; a look that takes longer delays the next.

    Where a look fails, the last picture again, saying so; only the first may raise.
    """
    picture: Picture | None = None
    while True:
        due_s = time.monotonic() + interval_s
        try:
            picture = look()
        except click.ClickException as error:
            if picture is None:
                raise
            picture = structs.replace(picture, stale=error.message)
        yield picture
        time.sleep(max(0.0, due_s - time.monotonic()))


def _fresh(pictures: Iterator[Picture]) -> Iterator[Picture]:
    """Those that are not old; of the others only the reason is told."""
    for picture in pictures:
        if picture.stale is None:
            yield picture
        else:
            note(picture.stale)


def _title(picture: Picture) -> str:
    seen = time.strftime("%H:%M:%S")
    if picture.controller_pid is None:
        return f"{seen}, seen by this command"
    return f"{seen}, as the controller (pid {picture.controller_pid}) sees them"


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Inside, a SIGTERM unwinds as Ctrl-C does, so that the terminal gets its cursor back."""

    def end(_: int, __: FrameType | None) -> None:
        sys.exit(_EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
