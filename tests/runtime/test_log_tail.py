from pathlib import Path

import pytest

from muai_core.runtime.log_tail import log_tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "replica.log"


def test_the_last_lines_are_given(log: Path) -> None:
    log.write_text("".join(f"line {n}\n" for n in range(100_000)))
    assert log_tail(log, lines=2) == "line 99998\nline 99999"


def test_a_missing_or_empty_log_has_no_tail(log: Path) -> None:
    assert log_tail(log) == ""
    log.touch()
    assert log_tail(log) == ""
    assert log_tail(log.parent) == ""


def test_what_a_terminal_would_not_show_is_left_out(log: Path) -> None:
    log.write_bytes(
        b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07plain\x00\x07\r\n"
        b"10 %\r50 %\r100 %\n\n\n"
        b"bad \xff\xfe utf-8, good \xc3\xa9\ttab\n"
        b"\x9b31m\x1b[?25l end"
    )
    assert log_tail(log).split("\n") == [
        "red plain",
        "100 %",
        "bad \ufffd\ufffd utf-8, good é\ttab",
        "\ufffd31m end",
    ]


def test_a_giant_line_keeps_its_end(log: Path) -> None:
    log.write_text("x" * 10_000_000 + " RuntimeError: out of memory\nlast")
    tail = log_tail(log, line_characters=40)
    assert tail == "…" + "x" * 12 + " RuntimeError: out of memory\nlast"


def test_a_log_that_is_one_giant_line_still_says_something(log: Path) -> None:
    log.write_text("x" * 10_000_000)
    assert log_tail(log, line_characters=10) == "…" + "x" * 10


def test_a_progress_bar_shows_its_last_state_while_it_is_drawn(log: Path) -> None:
    log.write_text("loading\n 1/3\r 2/3\r")
    assert log_tail(log) == "loading\n 2/3"
