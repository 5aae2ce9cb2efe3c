"""What running engines write into their logs: found as it comes, whatever the file goes through."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from replica_programs import until

from muai_core.control.events import Event, ReplicaComplained
from muai_core.runtime.log_watch import LogReader, LogWatch, WatchedLog

ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
NVLINK = "RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution"
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."


def lines(reader: LogReader) -> list[str]:
    return [complaint.line for complaint in reader.read()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "replica.log"


def append(log: Path, text: str | bytes) -> None:
    with log.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


# One log


def test_a_line_is_found_once_and_only_when_it_is_whole(log: Path) -> None:
    reader = LogReader(log)
    append(log, f"INFO starting\n{ECC[:30]}")
    assert lines(reader) == []
    append(log, ECC[30:])
    assert lines(reader) == []
    append(log, f"\nINFO still here\n{OUT_OF_MEMORY}\n")
    assert lines(reader) == [ECC]
    assert lines(reader) == []


def test_several_lines_are_found_in_their_order(log: Path) -> None:
    append(log, f"{ECC}\nnothing\n{NVLINK}\r\n{ECC}\n")
    assert lines(LogReader(log)) == [ECC, NVLINK, ECC]


def test_progress_bars_and_colours_do_not_hide_it(log: Path) -> None:
    append(log, f"10 %\r\x1b[31m{ECC}\x1b[0m\r20 %\r")
    assert lines(LogReader(log)) == [ECC]


def test_a_missing_log_or_none_that_can_be_read_says_nothing(log: Path) -> None:
    assert lines(LogReader(log)) == []
    log.mkdir()
    assert lines(LogReader(log)) == []


def test_a_log_that_appears_late_or_again_is_read_from_its_beginning(log: Path) -> None:
    reader = LogReader(log)
    assert lines(reader) == []
    append(log, f"{ECC}\n")
    assert lines(reader) == [ECC]
    log.rename(log.with_suffix(".old"))
    assert lines(reader) == []
    append(log, f"{NVLINK}\n" * 2)
    assert lines(reader) == [NVLINK] * 2


def test_a_log_that_was_cut_short_is_read_from_its_beginning(log: Path) -> None:
    reader = LogReader(log)
    append(log, "x" * 1000 + "\nhalf a line")
    assert lines(reader) == []
    os.truncate(log, 0)
    append(log, f"{ECC}\n")
    assert lines(reader) == [ECC]


def test_binary_garbage_is_survived(log: Path) -> None:
    garbage = bytes(range(256)) * 500
    append(log, garbage + b"\n" + ECC.encode() + b"\n" + garbage + b"\xff\n\x00\n")
    assert lines(LogReader(log)) == [ECC]


def test_a_long_line_is_told_in_part_and_found_wherever_the_words_are(log: Path) -> None:
    for before in (0, 790, 799, 800, 950, 999, 1000, 12345):
        reader = LogReader(log)
        log.write_text("x" * before + f" {ECC} " + "y" * 5000 + "\n")
        (line,) = lines(reader)
        assert "CUDA error: uncorrectable ECC error" in line
        assert len(line) <= 1000


def test_a_line_without_an_end_is_looked_at_and_takes_no_more_memory(log: Path) -> None:
    reader = LogReader(log, limit_bytes=10_000)
    append(log, "x" * 5_000 + ECC)
    assert lines(reader) == []
    append(log, "y" * 9_000)
    (line,) = lines(reader)
    assert ECC in line
    for _ in range(20):
        append(log, "z" * 9_000)
        assert lines(reader) == []
        assert len(reader._rest) <= 10_000


def test_of_too_much_at_once_the_end_is_read_and_the_rest_counted(log: Path) -> None:
    reader = LogReader(log, limit_bytes=10_000)
    append(log, "known\n")
    assert lines(reader) == []
    append(log, f"{NVLINK}\n" + "x\n" * 10_000 + f"{ECC}\n")
    assert lines(reader) == [ECC]
    assert reader.skipped_bytes == log.stat().st_size - len("known\n") - 10_000


# All logs


class Watched:
    """Running replicas with their logs, and what the watch told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[WatchedLog] = []
        self.told: list[ReplicaComplained] = []
        self.now_s = 0.0
        self.rounds = 0
        self.thread = threading.get_ident()
        self.watch = LogWatch(self._replicas, self._emit, interval_s=0.01, clock=self._clock)

    def _replicas(self) -> Iterable[WatchedLog]:
        self.rounds += 1
        return iter(list(self.running))

    def _emit(self, event: Event) -> None:
        assert isinstance(event, ReplicaComplained)
        assert threading.get_ident() == self.thread
        self.told.append(event)

    def _clock(self) -> float:
        return self.now_s

    def run(self, replica_id: str, epoch: int = 1) -> Path:
        log = self.directory / f"{replica_id}-{epoch}.log"
        self.running.append((replica_id, epoch, log))
        return log

    async def round(self) -> None:
        """Waits until one more round has begun and ended."""
        seen = self.rounds
        await until(lambda: self.rounds >= seen + 2)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path)
    watched.watch.start()
    yield watched
    await watched.watch.close()


async def test_a_complaint_names_the_incarnation(watched: Watched) -> None:
    first, second = watched.run("chat.0", 3), watched.run("chat.1", 1)
    append(second, f"{ECC}\n")
    append(first, "all well\n")
    await until(lambda: bool(watched.told))
    assert watched.told == [ReplicaComplained(replica_id="chat.1", epoch=1, line=ECC)]


async def test_the_same_kind_is_told_once_in_ten_seconds(watched: Watched) -> None:
    chat, code = watched.run("chat.0"), watched.run("code.0")
    append(chat, f"{ECC}\n" * 1000)
    append(code, f"{ECC}\n")
    await until(lambda: len(watched.told) == 2)
    append(chat, f"{ECC} again\n{NVLINK}\n")
    await until(lambda: len(watched.told) == 3)
    assert watched.told[2].line == NVLINK
    watched.now_s = 10.0
    append(chat, f"{ECC} later\n")
    await until(lambda: len(watched.told) == 4)
    assert watched.told[3].line == f"{ECC} later"


async def test_the_last_words_of_a_replica_that_ended_are_told(watched: Watched) -> None:
    log = watched.run("chat.0")
    await watched.round()
    watched.running.clear()
    append(log, f"{ECC}\n")
    await until(lambda: bool(watched.told))
    append(log, f"{NVLINK}\n")
    await watched.round()
    await watched.round()
    assert [told.line for told in watched.told] == [ECC]
    assert watched.watch._readers == watched.watch._told_at_s == {}


async def test_a_new_incarnation_begins_anew(watched: Watched) -> None:
    append(watched.run("chat.0", 1), f"{ECC}\n")
    await until(lambda: len(watched.told) == 1)
    watched.running.clear()
    append(watched.run("chat.0", 2), f"{ECC}\n")
    await until(lambda: len(watched.told) == 2)
    assert [told.epoch for told in watched.told] == [1, 2]


async def test_trouble_in_one_round_does_not_end_the_watch(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    log = watched.run("chat.0")
    watched.running.append(None)  # type: ignore[arg-type]
    await until(lambda: "the engines' logs could not be read" in caplog.text)
    watched.running.pop()
    append(log, f"{ECC}\n")
    await until(lambda: bool(watched.told))


async def test_a_log_that_grows_too_fast_is_said_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    log = watched.run("chat.0")
    for count in (1, 2):
        append(log, b"x\n" * 1024 * 1024 + f"{ECC} {count}\n".encode())
        watched.now_s += 10
        await until(lambda count=count: len(watched.told) == count)
    assert caplog.text.count("grows so fast that") == 1
    assert f"{log} grows so fast" in caplog.text


async def test_a_read_that_hangs_holds_up_neither_the_loop_nor_the_end(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    fifo = watched.run("chat.0")
    os.mkfifo(fifo)
    watched.watch.start()
    await until(lambda: watched.rounds == 1)
    await asyncio.sleep(0)
    await asyncio.wait_for(watched.watch.close(), 30)
    # Let the thread go that is waiting for somebody to write.
    os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
