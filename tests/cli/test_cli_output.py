"""Tables and words: plain when piped, drawn on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from muai_core.cli import output, wording
from muai_core.cli.state_directory import default_state_dir


def test_a_plain_table_is_aligned_and_has_no_trailing_blanks() -> None:
    text = output.plain_table(
        ["name", "size"], [["a", "1.5"], ["longer", "12"], ["", "3"]], [False, True]
    )
    assert text.splitlines() == ["NAME    SIZE", "a        1.5", "longer    12", "           3"]


def test_a_table_without_rows_has_its_headings() -> None:
    assert output.plain_table(["name"], [], [False]) == "NAME"


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["name"], [["\x1b[31mred\nline"]])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


def test_neighbouring_devices_are_one_range() -> None:
    devices = [
        {"node": node, "kind": kind, "index": index, "label": str(index)}
        for node, kind, index in [
            ("a", "gpu", 0),
            ("a", "gpu", 1),
            ("a", "gpu", 2),
            ("a", "gpu", 5),
            ("b", "gpu", 6),
            ("b", "cpu", 7),
            ("b", "cpu", 6),
        ]
    ]
    assert wording.device_ranges(devices) == "a/gpu0-2 a/gpu5 b/gpu6 b/cpu7 b/cpu6"


def test_the_state_directory_follows_the_environment(tmp_path: Path) -> None:
    assert default_state_dir({"MUAI_STATE_DIR": "/s", "XDG_STATE_HOME": "/x"}) == Path("/s")
    assert default_state_dir({"MUAI_STATE_DIR": "", "XDG_STATE_HOME": "/x"}) == Path("/x/muai")
    assert default_state_dir({"XDG_STATE_HOME": "x"}) == Path.home() / ".local/state/muai"
    assert default_state_dir({"MUAI_STATE_DIR": "s"}) == Path.cwd() / "s"


DEVICE_HEADINGS = ["device", "name", "memory", "power", "reason"]
DEVICE = ["rack-1/gpu0", "NVIDIA H100 80GB HBM3", "79.65 GiB", "-"]
REASON = "XID 79: GPU has fallen off the bus"


def drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> list[str]:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    output.print_table(DEVICE_HEADINGS, [[*DEVICE, "-"], [*DEVICE, REASON]], "memory")
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_wide_terminal_shows_each_row_on_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heading, well, unwell = drawn(monkeypatch, capsys, 120)
    assert heading.split() == ["device", "name", "memory", "reason"], "power is not known"
    assert well == "rack-1/gpu0  NVIDIA H100 80GB HBM3  79.65 GiB  -"
    assert unwell.endswith(REASON)


def test_a_terminal_that_is_narrower_breaks_text_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = drawn(monkeypatch, capsys, 60)
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert sum("rack-1/gpu0" in line and "79.65 GiB" in line for line in lines) == 2


def test_a_narrow_terminal_breaks_lines_and_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heading, well, unwell = drawn(monkeypatch, capsys, 40)
    assert heading.split() == ["device", "name", "memory", "reason"]
    assert well == "rack-1/gpu0  NVIDIA H100 80GB HBM3  79.65 GiB  -"
    assert unwell.endswith(REASON)


def on_a_terminal(environ: dict[str, str]) -> bytes:
    """What `muai plugins` writes when its stdout is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "muai_core.cli.main", "plugins"],
        env={**environ, "TERM": "xterm-256color", "COLUMNS": "200"},
        stdout=theirs,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # The other end was closed.
            break
        if not read:
            break
        written += read
    os.close(ours)
    assert process.wait(timeout=30) == 0
    return written


def test_a_terminal_gets_colours(environ: dict[str, str]) -> None:
    written = on_a_terminal(environ)
    assert b"\x1b[" in written
    assert b"muai-core" in written


def test_no_color_is_respected(environ: dict[str, str]) -> None:
    written = on_a_terminal({**environ, "NO_COLOR": "1"})
    assert b"\x1b[" not in written
    assert written.startswith(b"NAME")
