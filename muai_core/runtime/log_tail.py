"""The end of an engine's log, fit to be put into an error message."""

import re
from pathlib import Path

# ANSI colour and cursor sequences, then every control character but newline and tab.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def log_tail(
    path: Path, *, lines: int = 20, line_characters: int = 400, read_bytes: int = 64 * 1024
) -> str:
    """The last lines of a log as plain text; "" when it is empty or cannot be read.

    At most `read_bytes` are read from the end, whatever the size of the file. A longer line keeps
    its end, which is where an exception says what happened. Progress bars, which rewrite their
    line with carriage returns, appear in their last state only.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - read_bytes)
            file.seek(start)
            raw = file.read(read_bytes)
    except OSError:
        return ""
    text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n")
    rows = [_clean(row, line_characters) for row in text.split("\n")]
    if start > 0:
        rows[0] = "…" + rows[0].removeprefix("…")
    rows = [row for row in rows if row]
    return "\n".join(rows[-lines:])


def plain(row: str) -> str:
    """A line without what a terminal would not show: escape sequences and control characters."""
    return _CONTROLS.sub("", _ESCAPES.sub("", row)).rstrip()


def _clean(row: str, line_characters: int) -> str:
    row = plain(row.rstrip("\r").rpartition("\r")[2])
    return row if len(row) <= line_characters else "…" + row[-line_characters:]
