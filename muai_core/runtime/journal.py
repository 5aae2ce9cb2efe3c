"""The journal: everything the control plane was told, so that `muai replay` can tell it again.

One JSON object a line: a header, the plane's first snapshot, then one line for each batch of events
and, at an orderly end, the final digest. Every so many batches the line carries the digest of the
state that the batch was applied to.

    {"line":"header","format":1,"muai":"0.1.0","strategy":"balanced","policy":"ladder",...}
    {"line":"snapshot","state":{...}}
    {"line":"batch","seq":1,"now_s":0.41,"events":[...],"digest":"9f..."}
    {"line":"batch","seq":2,"now_s":0.55,"events":[]}
    {"line":"end","seq":2,"digest":"03..."}

The plane eats exactly what the journal wrote: `append` returns the batch as read back from its own
line, because an int in a float's place or a tuple in an option would give another digest later. A
batch is written before it is applied, with one `write` and no `fsync`: a killed controller loses at
most a torn last line, a crashed machine the last seconds; `close` syncs. A write that fails (a full
disk) never stops the controller: it is reported once, counted, undone, and tried again some seconds
later; the journal then goes on from a new snapshot that says how many batches are missing.

The file is readable by its owner only: configs, paths and log tails are in it. It is not rotated;
at `limit_bytes` it ends. A journal of the same name is kept as `<name>.previous`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from muai_core.control.events import Event, decode_event
from muai_core.control.plane import ControlPlane

FORMAT = 1
_DIGEST_EVERY = 256
_LIMIT_BYTES = 4 * 1024**3
_RETRY_AFTER_S = 5.0


class Line(Struct, frozen=True, kw_only=True, tag_field="line", tag=str.lower, omit_defaults=True):
    """Base of the lines of a journal."""


class Header(Line, frozen=True, kw_only=True):
    """What a replay needs to know before it starts."""

    format: int
    #: The version of MuAI that wrote it.
    muai: str
    strategy: str
    policy: str
    #: Local plugin files, as absolute paths.
    plugins: tuple[str, ...]
    #: Wall clock at second zero of the controller's clock, ISO 8601 with its zone.
    zero_at: str


class Snapshot(Line, frozen=True, kw_only=True):
    """The plane's whole state. One that is not the first comes after `lost_batches` were lost."""

    state: Raw
    lost_batches: int = 0


class Batch(Line, frozen=True, kw_only=True):
    """One call of `step`. `digest` is that of the state before it."""

    seq: int
    now_s: float
    events: tuple[Event, ...]
    digest: str | None = None


class End(Line, frozen=True, kw_only=True):
    """The journal was closed after batch `seq`, with this digest."""

    seq: int
    digest: str


_encode = msgspec.json.Encoder().encode
_LINES: msgspec.json.Decoder[Header | Snapshot | Batch | End] = msgspec.json.Decoder(
    Header | Snapshot | Batch | End
)
_BATCH = msgspec.json.Decoder(Batch)


class JournalState(Struct, kw_only=True):
    """How the journal is doing."""

    path: str
    size_bytes: int = 0
    batches: int = 0
    #: Stretches that could not be written, and the batches in them.
    gaps: int = 0
    lost_batches: int = 0
    #: Events that could not be written as JSON; the plane did not get them either.
    refused_events: int = 0
    #: Why nothing is being written now; None while all is well.
    problem: str | None = None


class Journal:
    """An open journal. For one thread; no method raises once it is open."""

    def __init__(
        self,
        descriptor: int,
        path: Path,
        plane: ControlPlane,
        report: Callable[[str], None],
        limit_bytes: int,
    ) -> None:
        """Use `open`."""
        self.state = JournalState(path=str(path))
        self._descriptor = descriptor
        self._plane = plane
        self._report = report
        self._limit_bytes = limit_bytes
        self._seq = 0
        self._lost_batches = 0
        self._retry_at_s: float | None = None
        self._ended = False

    @classmethod
    def open(
        cls,
        path: Path,
        plane: ControlPlane,
        *,
        version: str,
        zero_at: str,
        plugins: Sequence[Path] = (),
        report: Callable[[str], None] = lambda words: None,
        limit_bytes: int = _LIMIT_BYTES,
    ) -> "Journal":
        """A new journal of `plane`, which must not be stepped but with what `append` returns.

        `zero_at` is the wall clock at second zero of the plane's clock. `report` gets one line when
        writing begins to fail. Raises OSError if the file cannot be created.
        """
        if path.exists():
            path.replace(path.with_name(path.name + ".previous"))
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        journal = cls(descriptor, path, plane, report, limit_bytes)
        header = Header(
            format=FORMAT,
            muai=version,
            strategy=plane.state.settings.strategy,
            policy=plane.state.settings.policy,
            plugins=tuple(str(plugin.absolute()) for plugin in plugins),
            zero_at=zero_at,
        )
        try:
            journal._write(_encode(header) + b"\n" + journal._snapshot_line())
        except OSError:
            os.close(descriptor)
            raise
        return journal

    def append(self, now_s: float, events: Iterable[Event]) -> tuple[float, tuple[Event, ...]]:
        """Write a batch down, and return it as the plane must be stepped with it."""
        self._seq += 1
        digest = self._plane.digest() if self._seq % _DIGEST_EVERY == 1 else None
        batch = Batch(seq=self._seq, now_s=now_s, events=tuple(events), digest=digest)
        line, read_back, refused = written(batch)
        self.state.refused_events += len(refused)
        for words in refused:
            self._report(f"an event cannot be written as JSON and was dropped: {words}")
        if not self._ended:
            self._put(line, read_back.now_s)
        return read_back.now_s, read_back.events

    def close(self) -> None:
        """Write the plane's digest and sync. Only the first call does anything."""
        if self._descriptor < 0:
            return
        if not self._ended and self._lost_batches == 0:
            self._end()
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._fail(f"cannot be synced: {error}")
        os.close(self._descriptor)
        self._descriptor = -1

    def _put(self, line: bytes, now_s: float) -> None:
        if self._retry_at_s is not None and now_s < self._retry_at_s:
            self._lose()
            return
        if self.state.size_bytes + len(line) > self._limit_bytes:
            self._end()
            self._fail(f"ended at its limit of {self._limit_bytes} bytes")
            return
        try:
            if self._lost_batches:
                line = self._snapshot_line() + line
            self._write(line)
        except OSError as error:
            self._fail(str(error))
            self._retry_at_s = now_s + _RETRY_AFTER_S
            self._lose()
            return
        self.state.batches += 1
        self._lost_batches, self._retry_at_s, self.state.problem = 0, None, None

    def _lose(self) -> None:
        self.state.gaps += self._lost_batches == 0
        self._lost_batches += 1
        self.state.lost_batches += 1

    def _end(self) -> None:
        self._ended = True
        # At the limit the batch in hand is not applied yet and is not part of the journal.
        seq = self.state.batches + self.state.lost_batches
        try:
            self._write(_encode(End(seq=seq, digest=self._plane.digest())) + b"\n")
        except OSError as error:
            self._fail(str(error))

    def _snapshot_line(self) -> bytes:
        state = Raw(self._plane.snapshot())
        return _encode(Snapshot(state=state, lost_batches=self._lost_batches)) + b"\n"

    def _write(self, data: bytes) -> None:
        """All of it or, if that is possible, nothing. Raises OSError."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:])
        except OSError:
            # The start of a line must not stay: the next one would be appended to it.
            os.ftruncate(self._descriptor, self.state.size_bytes)
            raise
        self.state.size_bytes += len(data)

    def _fail(self, words: str) -> None:
        if self.state.problem is None:
            self._report(f"journal {self.state.path}: {words}")
        self.state.problem = words


# --- what goes in is what comes out -------------------------------------------------------------


def written(batch: Batch) -> tuple[bytes, Batch, list[str]]:
    """The batch as its line, as read back from it, and what had to be left out, in words.

    Text that is not valid Unicode is mended; an event that still does not survive is left out.
    """
    try:
        line = _encode(batch) + b"\n"
        return line, _BATCH.decode(line), []
    except (ValueError, TypeError):
        events: list[Event] = []
        refused: list[str] = []
        for event in batch.events:
            try:
                events.append(decode_event(_encode(_mended(msgspec.to_builtins(event)))))
            except (ValueError, TypeError) as error:
                refused.append(f"{type(event).__name__}: {error}")
        whole = msgspec.structs.replace(batch, events=tuple(events))
        line = _encode(whole) + b"\n"
        return line, _BATCH.decode(line), refused


def canonical(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events as a journal would return them, for a plane that has none."""
    return written(Batch(seq=0, now_s=0.0, events=tuple(events)))[1].events


def _mended(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case dict():
            return {_mended(key): _mended(part) for key, part in value.items()}
        case list() | tuple():
            return [_mended(part) for part in value]
    return value


# --- reading ------------------------------------------------------------------------------------


class JournalError(Exception):
    """Not a journal, or a damaged one; the text says where and what."""


class JournalReader:
    """A journal being read, line by line. `torn` tells, at the end, if its last line was cut off.

    Raises JournalError, also while iterating, and OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = False
        self._lines = self._read()
        first = next(self._lines, None)
        if not isinstance(first, Header):
            raise JournalError(f"{path}:1: not a journal: no header")
        if first.format != FORMAT:
            raise JournalError(
                f"{path}:1: a journal of format {first.format}, written by MuAI {first.muai}; "
                f"this version reads format {FORMAT}"
            )
        self.header = first
        second = next(self._lines, None)
        if not isinstance(second, Snapshot):
            raise JournalError(f"{path}:2: no snapshot to start from")
        self.snapshot = second

    def __iter__(self) -> Iterator[Snapshot | Batch | End]:
        for line in self._lines:
            if isinstance(line, Header):
                raise JournalError(f"{self.path}: a second header")
            yield line

    def _read(self) -> Iterator[Header | Snapshot | Batch | End]:
        with self.path.open("rb") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = _LINES.decode(text)
                except ValueError as error:
                    # Lines are written whole, newline last: only a torn one can lack it.
                    if number > 1 and not text.endswith(b"\n"):
                        self.torn = True
                        return
                    raise JournalError(
                        f"{self.path}:{number}: not a journal line: {error}"
                    ) from error
                yield line
