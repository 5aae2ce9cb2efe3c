"""The journal writes what the plane is told, and survives what a disk can do to it."""

import errno
import os
import resource
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muai_core.control import events as ev
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.control.transcript import parse_event
from muai_core.planning.balanced import Balanced
from muai_core.runtime import journal as journal_module
from muai_core.runtime.journal import (
    Batch,
    End,
    Journal,
    JournalError,
    JournalReader,
    Snapshot,
    canonical,
)

STORY = [
    (0.0, ["DevicesObserved gpus at 0: gpu0(80GiB)", "DeploymentsDesired chat(40GiB)"]),
    (5.0, ["ReplicaReady chat.0/1 at http://127.0.0.1:4001"]),
    (9.0, ["ReplicaExited chat.0/1: exited with status 1"]),
    (9.5, ["ReplicaReleased chat.0/1"]),
    (11.0, []),
]


def plane() -> ControlPlane:
    return ControlPlane(ControlSettings(), Balanced(), Ladder())


def opened(path: Path, own: ControlPlane, **options: Any) -> Journal:
    return Journal.open(path, own, version="1.2.3", zero_at="2026-01-02T03:04:05+00:00", **options)


def tell(journal: Journal, own: ControlPlane, story: Any = STORY) -> None:
    for at, lines in story:
        own.step(*journal.append(at, [parse_event(line) for line in lines]))


def test_a_journal_reads_back_as_it_was_written(tmp_path: Path) -> None:
    own, path = plane(), tmp_path / "journal.jsonl"
    journal = opened(path, own, plugins=[tmp_path / "mine.py"])
    first = own.snapshot()
    tell(journal, own)
    journal.close()
    reader = JournalReader(path)
    assert reader.header.muai == "1.2.3"
    assert reader.header.zero_at == "2026-01-02T03:04:05+00:00"
    assert (reader.header.strategy, reader.header.policy) == ("balanced", "ladder")
    assert reader.header.plugins == (str(tmp_path / "mine.py"),)
    assert bytes(reader.snapshot.state) == first
    *batches, end = reader
    assert [line.now_s for line in batches if isinstance(line, Batch)] == [at for at, _ in STORY]
    assert end == End(seq=len(STORY), digest=own.digest())
    assert not reader.torn
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert journal.state.size_bytes == path.stat().st_size


def test_what_the_plane_eats_is_what_the_journal_wrote(tmp_path: Path) -> None:
    """An int in a float's place, tuples in options, text that is not Unicode."""
    own, path = plane(), tmp_path / "journal.jsonl"
    journal = opened(path, own)
    deployment = msgspec.structs.replace(
        parse_event("DeploymentsDesired chat(40GiB)").deployments[0],  # type: ignore[union-attr]
        engine_options={"sizes": (1, 2)},
    )
    given = [
        ev.ReplicasObserved(observed_at_s=0, sightings=()),
        ev.DeploymentsDesired(deployments=(deployment,)),
        ev.DeviceSourceFailed(source="gpus", reason="caf\udce9"),
    ]
    now_s, events = journal.append(3, given)
    assert isinstance(now_s, float)
    assert events == canonical(given)
    own.step(now_s, events)
    journal.close()
    told = plane()
    for line in JournalReader(path):
        if isinstance(line, Batch):
            assert line.events == events
            told.step(line.now_s, line.events)
    assert told.snapshot() == own.snapshot()
    assert own.state.sources["gpus"].failure == "caf?"


def test_an_event_that_cannot_be_written_is_dropped_and_reported(tmp_path: Path) -> None:
    own, reported = plane(), []
    journal = opened(tmp_path / "journal.jsonl", own, report=reported.append)
    nan = ev.ReplicasObserved(observed_at_s=float("nan"), sightings=())
    _, events = journal.append(1.0, [nan, ev.ShutdownRequested()])
    assert events == (ev.ShutdownRequested(),)
    assert journal.state.refused_events == 1
    assert "ReplicasObserved" in reported[0]


def test_digests_are_recorded_every_so_many_batches(tmp_path: Path) -> None:
    own, path = plane(), tmp_path / "journal.jsonl"
    journal = opened(path, own)
    for number in range(600):
        own.step(*journal.append(float(number), []))
    journal.close()
    recorded = [line.seq for line in JournalReader(path) if isinstance(line, Batch) and line.digest]
    assert recorded == [1, 257, 513]


def test_an_earlier_journal_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    opened(path, plane()).close()
    before = path.read_bytes()
    opened(path, plane()).close()
    assert path.with_name("journal.jsonl.previous").read_bytes() == before


def test_a_killed_writer_leaves_at_most_a_torn_line(tmp_path: Path) -> None:
    own, path = plane(), tmp_path / "journal.jsonl"
    tell(opened(path, own), own)
    whole = path.read_bytes()
    for cut in (2, 5, 40):
        path.write_bytes(whole[:-cut])
        reader = JournalReader(path)
        assert len(list(reader)) == len(STORY) - 1
        assert reader.torn
    path.write_bytes(whole)
    reader = JournalReader(path)
    assert len(list(reader)) == len(STORY)
    assert not reader.torn


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [], "1: not a journal"),
        (lambda lines: [b"\x00\xff\n"], "1: not a journal line"),
        (lambda lines: [b"{}\n"], "1: not a journal line"),
        (lambda lines: [b'{"line":"header"}\n'], "1: not a journal line"),
        (lambda lines: lines[:1], "2: no snapshot"),
        (lambda lines: [lines[0], lines[2]], "2: no snapshot"),
        (lambda lines: lines[1:], "1: not a journal: no header"),
        (lambda lines: [*lines[:3], b"garbage\n", *lines[3:]], "4: not a journal line"),
        (lambda lines: [*lines[:3], lines[3].replace(b"ReplicaReady", b"Nonsense")], "4: not"),
        (lambda lines: [*lines, lines[0]], "second header"),
        (lambda lines: [lines[0].replace(b'"format":1', b'"format":2')], "format 2"),
    ],
)
def test_a_damaged_journal_is_refused_with_its_line(
    tmp_path: Path, damage: Any, words: str
) -> None:
    own, path = plane(), tmp_path / "journal.jsonl"
    journal = opened(path, own)
    tell(journal, own)
    journal.close()
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(JournalError, match=words):
        list(JournalReader(path))


# --- the disk -----------------------------------------------------------------------------------


class FullDisk:
    """Stands in for os.write: after some bytes the disk is full, until it is freed."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.room_bytes <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = _write(descriptor, data[: self.room_bytes])
        self.room_bytes -= done
        return done


_write = os.write


def test_a_full_disk_leaves_a_gap_and_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, path, reported = plane(), tmp_path / "journal.jsonl", []
    journal = opened(path, own, report=reported.append)
    tell(journal, own, STORY[:1])
    disk = FullDisk(room_bytes=20)
    monkeypatch.setattr(journal_module.os, "write", disk)
    tell(journal, own, STORY[1:4])
    assert journal.state.problem is not None
    assert (journal.state.gaps, journal.state.lost_batches) == (1, 3)
    assert len(reported) == 1
    assert "No space left" in reported[0]
    # Room again: the journal goes on from a new snapshot.
    disk.room_bytes = 10**9
    tell(journal, own, [(20.0, []), (30.0, [])])
    assert journal.state.problem is None
    journal.close()
    kinds = [type(line) for line in JournalReader(path)]
    assert kinds == [Batch, Snapshot, Batch, Batch, End]
    told = plane()
    for line in JournalReader(path):
        if isinstance(line, Snapshot):
            assert line.lost_batches == 3
            told = ControlPlane.restore(bytes(line.state), Balanced(), Ladder())
        elif isinstance(line, Batch):
            told.step(line.now_s, line.events)
    assert told.digest() == own.digest()


def test_the_file_size_limit_of_the_system_does_not_stop_the_controller(tmp_path: Path) -> None:
    """A real failing write, by a real limit, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
            own = plane()
            journal = opened(tmp_path / "journal.jsonl", own)
            for number in range(200):
                own.step(*journal.append(float(number), []))
            journal.close()
            status = 0 if journal.state.lost_batches else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lines = list(JournalReader(tmp_path / "journal.jsonl"))
    assert lines
    assert all(isinstance(line, Batch | Snapshot) for line in lines)


def test_at_its_limit_the_journal_ends_in_good_order(tmp_path: Path) -> None:
    own, path, reported = plane(), tmp_path / "journal.jsonl", []
    journal = opened(path, own, report=reported.append, limit_bytes=3000)
    digests = [own.digest()]
    for number in range(200):
        own.step(*journal.append(float(number), []))
        digests.append(own.digest())
    journal.close()
    assert len(reported) == 1
    assert "limit" in reported[0]
    *_, end = JournalReader(path)
    assert isinstance(end, End)
    assert end.digest == digests[end.seq]
    assert path.stat().st_size < 3500


def test_a_journal_that_cannot_be_created_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        opened(tmp_path / "missing" / "journal.jsonl", plane())
