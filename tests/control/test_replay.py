"""`muai replay` tells a journal again and notices when it comes out differently."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from muai_core import builtin
from muai_core.cli.replay import Replayed, command
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.control.transcript import parse_event
from muai_core.planning.balanced import Balanced
from muai_core.runtime.journal import Journal

STORY = [
    (0.0, ["DevicesObserved gpus at 0: gpu0(80GiB) gpu1(80GiB)", "DeploymentsDesired chat(40GiB)"]),
    (5.0, ["ReplicaReady chat.0/1 at http://127.0.0.1:4001"]),
    (9.0, ["ReplicaExited chat.0/1: exited \x1b[31mwith status 1"]),
    (9.5, ["ReplicaReleased chat.0/1", "ReplicaReady ghost.0/1 at http://127.0.0.1:1"]),
    (11.0, []),
]

CUSTOM = """\
from muai_core import AllocationStrategy, hookimpl


class LastFirst(AllocationStrategy):
    name = "last-first"

    def place(self, request, fleet):
        return request.placement_on(fleet.devices[::-1], "the last ones first")


@hookimpl
def muai_allocation_strategies():
    return [LastFirst()]
"""


def replayed(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return written(tmp_path / "journal.jsonl", Balanced())


def written(path: Path, strategy: Any, plugins: Any = ()) -> Path:
    plane = ControlPlane(ControlSettings(strategy=strategy.name), strategy, Ladder())
    journal = Journal.open(path, plane, version="1", zero_at="2026-01-01", plugins=plugins)
    for at, lines in STORY:
        plane.step(*journal.append(at, [parse_event(line) for line in lines]))
    journal.close()
    return path


def test_a_faithful_journal_is_told_again(journal: Path) -> None:
    result = replayed(journal)
    assert result.exit_code == 0
    end = json.loads(journal.read_bytes().splitlines()[-1])
    assert "5 batches with 6 events replayed, 2 digests verified" in result.output
    assert f"digest {end['digest']}" in result.output


def test_json_has_exactly_the_documented_keys(journal: Path) -> None:
    told = json.loads(replayed(journal, "--json").stdout)
    assert set(told) == set(Replayed.__struct_fields__)
    assert (told["batches"], told["events"], told["digests_verified"]) == (5, 6, 2)
    assert (told["ended"], told["torn"], told["difference"]) == (True, False, None)


def test_verbose_tells_the_story_and_escapes_what_terminals_obey(journal: Path) -> None:
    told = replayed(journal, "--verbose").output
    assert "at 9.000\n  event     ReplicaExited chat.0/1: exited \\x1b[31mwith status 1\n" in told
    assert "  rejected  ReplicaReady: a replica that never was\n" in told
    assert "  action    StartReplica chat.0/2 on gpu0" in told
    assert "\x1b" not in told


def test_a_different_outcome_is_found(journal: Path) -> None:
    """A changed event, far from the recorded digest, is caught by it."""
    text = journal.read_text()
    journal.write_text(text.replace("exited ", "crashed "))
    result = replayed(journal)
    assert result.exit_code == 1
    assert "DIFFERENT: one of the batches 1 to 5 led to digest" in result.output
    told = json.loads(replayed(journal, "--json").stdout)
    assert "recorded is" in told["difference"]


def test_a_changed_snapshot_is_found_before_the_first_batch(journal: Path) -> None:
    journal.write_text(journal.read_text().replace('"drain_s":30.0', '"drain_s":31.0'))
    result = replayed(journal)
    assert result.exit_code == 1
    assert "batch 0 led to digest" in result.output


@pytest.mark.parametrize("text", ["", "not a journal\n", '{"line":"batch"}\n', "\x00" * 99])
def test_what_is_no_journal_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    result = replayed(path)
    assert result.exit_code == 2
    assert f"{path}:1: " in result.stderr
    assert replayed(tmp_path / "missing").exit_code == 2
    assert replayed(tmp_path).exit_code == 2


def test_an_unfinished_journal_is_told_as_far_as_it_goes(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))
    assert "no end line" in replayed(journal).output
    journal.write_bytes(b"".join(lines[:-1])[:-9])
    result = replayed(journal)
    assert result.exit_code == 0
    assert "the last line is torn" in result.output
    assert "4 batches" in result.output


def test_local_plugins_are_loaded_as_the_header_says(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(CUSTOM)
    strategy = builtin.load([mine], {}).allocation_strategies["last-first"]
    path = written(tmp_path / "journal.jsonl", strategy, [mine])
    assert "on gpu1" in replayed(path, "--verbose").output
    # On another machine the file lies elsewhere.
    elsewhere = mine.rename(tmp_path / "elsewhere.py")
    result = replayed(path)
    assert result.exit_code == 2
    assert "needs the allocation strategy 'last-first'" in result.stderr
    assert replayed(path, "--plugin", elsewhere).exit_code == 0


def test_another_process_with_another_hash_seed_agrees(journal: Path) -> None:
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-m", "muai_core.cli.main", "replay", str(journal)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(journal: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "muai_core.cli.main", "replay", "--verbose", str(journal)],
        stdout=writes,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writes)
    assert done.stderr == b""


@pytest.mark.parametrize(("name", "reason"), [("", "Is a directory"), ("gone", "No such file")])
def test_what_is_no_file_is_named(tmp_path: Path, name: str, reason: str) -> None:
    result = replayed(tmp_path / name)
    assert result.exit_code == 2
    assert f"Error: {tmp_path / name}: {reason}" in result.output
