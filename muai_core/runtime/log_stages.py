"""What an engine's log says of how far its start has come."""

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path

_LOOK_EVERY_S = 0.5
_READ_BYTES = 256 * 1024


async def follow_stages(
    path: Path, stages: Sequence[tuple[str, str]], report: Callable[[str], None]
) -> None:
    """Reports the words of each stage once, when the log reaches it. Runs until it is cancelled.

    Reads only what is new, in bounded pieces. A log that cannot be read reports nothing.
    """
    patterns = [(words, re.compile(pattern)) for words, pattern in stages]
    offset, rest, reached = 0, "", -1
    while True:
        text, offset = _read(path, offset)
        lines = (rest + text).split("\n")
        rest = lines.pop()[-_READ_BYTES:]
        for line in lines:
            for number in range(len(patterns) - 1, reached, -1):
                if patterns[number][1].search(line):
                    reached = number
                    report(patterns[number][0])
                    break
        if len(text) < _READ_BYTES:
            await asyncio.sleep(_LOOK_EVERY_S)


def _read(path: Path, offset: int) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read(_READ_BYTES)
    except OSError:
        return "", offset
    return raw.decode("utf-8", errors="replace"), offset + len(raw)
