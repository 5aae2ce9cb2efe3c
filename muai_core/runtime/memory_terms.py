"""What an engine's log tells of its memory at the end of a start."""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from muai_core.runtime.log_tail import plain

_log = logging.getLogger(__name__)

#: Engines tell of their memory before they serve; a log that is longer by then is cut.
_READ_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
#: vLLM puts all its numbers into one line of some 700 characters.
_LINE_CHARACTERS = 2000
#: 16 TiB: what claims more is no number of GiB.
_MOST_GIB = 16 * 1024.0
_LINE_BREAKS = re.compile(rb"[\r\n]+")


def read_terms(
    path: Path, patterns: Sequence[tuple[str, str]], limit_bytes: int = _READ_BYTES
) -> dict[str, float]:
    """Term → GiB, for the terms that a log tells; the largest, where several ranks tell it.

    Blocks on the file, of which at most `limit_bytes` are read, line by line. Never raises: what
    cannot be read tells nothing, and a pattern that is none is logged.
    """
    searches = []
    for term, pattern in patterns:
        try:
            searches.append((term, re.compile(pattern)))
        except re.error as error:
            _log.warning("the pattern for %s in an engine's log is broken: %s", term, error)
    found: dict[str, float] = {}
    for line in _lines(path, limit_bytes) if searches else ():
        for term, search in searches:
            amount_gib = _amount(search, line)
            if amount_gib is not None:
                found[term] = max(amount_gib, found.get(term, 0.0))
    return found


def _amount(search: re.Pattern[str], line: str) -> float | None:
    match = search.search(line)
    if match is None:
        return None
    try:
        amount_gib = float(match.group(1))
    except (IndexError, TypeError, ValueError):
        return None
    return amount_gib if math.isfinite(amount_gib) and 0 <= amount_gib <= _MOST_GIB else None


def _lines(path: Path, limit_bytes: int) -> Iterator[str]:
    rest = b""
    try:
        with path.open("rb") as file:
            left = limit_bytes
            while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
                left -= len(chunk)
                *lines, rest = _LINE_BREAKS.split(rest + chunk)
                yield from map(_text, lines)
                # Of a line without an end no more than its beginning is looked at.
                rest = rest[:_LINE_CHARACTERS]
    except OSError:
        return
    yield _text(rest)


def _text(line: bytes) -> str:
    return plain(line[:_LINE_CHARACTERS].decode("utf-8", errors="replace"))
