"""muai devices --watch: pictures until Ctrl-C, on a terminal and off it."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from muai_core.cli.device_watch import watch as watch_devices
from muai_core.cli.outlook import Picture

DEADLINE_S = 60.0
MODEL = "  chat: {source: weights, engine: fake}\n"
MUAI = [sys.executable, "-m", "muai_core.cli.main", "devices", "--watch", "--interval", "0.1"]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def watch(tmp_path: Path, environ: dict[str, str], fleet_config: Any) -> Iterator[Start]:
    """Starts `muai devices --watch` on the fake fleet, its output piped."""
    file = fleet_config(MODEL)
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*MUAI, file, *options],
                cwd=tmp_path,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def test_off_a_terminal_snapshots_follow_each_other(watch: Start) -> None:
    process = watch()
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(12)]
    assert [line.rstrip().endswith("seen by this command") for line in seen].count(True) == 2
    assert seen.count(seen[1]) == 2
    assert seen[1].startswith("DEVICE")
    assert seen[2].startswith("box/gpu0")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")


def test_as_json_each_picture_is_a_line(watch: Start) -> None:
    process = watch("--json")
    assert process.stdout is not None
    for _ in range(3):
        devices = json.loads(process.stdout.readline())
        assert [device["index"] for device in devices] == [0, 1, 2, 3]
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 0


def test_who_reads_no_more_ends_it(watch: Start) -> None:
    process = watch("--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(DEADLINE_S) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_it_may_be_terminated(watch: Start) -> None:
    process = watch("--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM


def test_what_happens_is_in_the_next_picture(watch: Start, tmp_path: Path) -> None:
    (tmp_path / "fake_fleet.py").write_text(
        (tmp_path / "fake_fleet.py")
        .read_text()
        .replace(
            "index in range(4)", "index in range(2 if __import__('os').path.exists('go') else 4)"
        )
        .replace("readings[3] =", "readings[-1] =")
        .replace("devices[3].uuid", "devices[-1].uuid")
    )
    process = watch("--json")
    assert process.stdout is not None
    assert all(device["present"] for device in json.loads(process.stdout.readline()))
    (tmp_path / "go").touch()
    give_up_at_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up_at_s:
        present = [device["present"] for device in json.loads(process.stdout.readline())]
        if not all(present):
            break
    assert present == [True, True, False, False]


def looks(*outcomes: Any) -> Callable[[], Picture]:
    """A look with these outcomes, one after the other, then Ctrl-C."""
    left = list(outcomes)

    def look() -> Picture:
        outcome = left.pop(0) if left else KeyboardInterrupt()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return look


EMPTY = Picture(
    devices=[], links=[], device_sources=[], absences=[], rejected=[], controller_pid=None
)


def test_a_look_that_fails_is_told_and_the_next_may_succeed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watch_devices(looks(EMPTY, click.ClickException("it does not answer"), EMPTY), 0.01, True)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("[]\n[]\n", "it does not answer\n")


def test_a_first_look_that_fails_ends_it() -> None:
    with pytest.raises(click.ClickException, match="another user"):
        watch_devices(looks(click.ClickException("another user")), 0.01, False)


class Terminal:
    """`muai devices --watch` on a terminal of its own."""

    def __init__(self, folder: Path, environ: dict[str, str], file: str) -> None:
        self._ours, theirs = pty.openpty()
        self.written = b""
        self.process = subprocess.Popen(
            [*MUAI, file],
            cwd=folder,
            env={"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50", **environ},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def read_until(self, enough: Callable[[bytes], bool]) -> bytes:
        """All that was written, once it is enough or nothing more comes."""
        give_up_at_s = time.monotonic() + DEADLINE_S
        while not enough(self.written) and time.monotonic() < give_up_at_s:
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    more = os.read(self._ours, 65536)
                except OSError:  # The other end was closed.
                    break
                if not more:
                    break
                self.written += more
        return self.written

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(tmp_path: Path, environ: dict[str, str], fleet_config: Any) -> Iterator[Any]:
    file = fleet_config(MODEL)
    with contextlib.ExitStack() as stack:

        def start(**variables: str) -> Terminal:
            made = Terminal(tmp_path, {**environ, **variables}, file)
            stack.callback(made.close)
            return made

        yield start


def pictures(count: int) -> Callable[[bytes], bool]:
    return lambda written: written.count(b"Ctrl-C ends") >= count


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_the_picture_is_redrawn_and_the_cursor_comes_back(
    terminal: Any, end: signal.Signals
) -> None:
    watched = terminal()
    written = watched.read_until(pictures(3))
    assert "█▓░░░".encode() in re.sub(rb"\x1b\[\d*m", b"", written)
    assert b"\x1b[?25l" in written, "the cursor is hidden while it is redrawn"
    assert b"\x1b[1A" in written, "the cursor goes back up"
    watched.process.send_signal(end)
    written = watched.read_until(lambda _: False)
    assert watched.process.wait(DEADLINE_S) == (0 if end == signal.SIGINT else 128 + end)
    assert written.rstrip().endswith(b"\x1b[?25h")
    assert b"Traceback" not in written


def test_without_colours_it_is_redrawn_all_the_same(terminal: Any) -> None:
    written = terminal(NO_COLOR="1").read_until(pictures(2))
    assert b"\x1b[1A" in written
    assert b"\x1b[3" not in written, "a colour"


def test_a_terminal_that_cannot_redraw_gets_snapshots(terminal: Any) -> None:
    watched = terminal(TERM="dumb")
    written = watched.read_until(lambda seen: seen.count(b"seen by this command") >= 2)
    assert b"\x1b[1A" not in written
