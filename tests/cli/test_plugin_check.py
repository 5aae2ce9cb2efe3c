"""`muai plugin check`: outcomes, exit statuses, and what it says about wrong usage."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import psutil
import pytest

from muai_core.testing.clauses import clauses_of
from muai_core.testing.fakes.engine import make_model

INSTALLED = {point.name for point in entry_points(group="muai")}
needs_simulated = pytest.mark.skipif(
    "simulated" not in INSTALLED, reason="the plugin muai_simulated is not installed"
)


def outcomes(told: Any) -> dict[str, str]:
    [part] = told["parts"]
    return {clause["number"]: clause["outcome"] for clause in part["clauses"]}


def test_a_sound_plugin_passes_with_a_line_for_each_clause(
    sample: Any, muai: Any, tmp_path: Path
) -> None:
    sample("patient")
    done = muai("plugin", "check", "patient.py")
    assert (done.status, done.err) == (0, "")
    first, heading, *lines, last = done.out.splitlines()
    assert first == f"recovery policy patient (patient, {tmp_path / 'patient.py'})"
    assert heading.split() == ["NO", "CLAUSE", "OUTCOME", "TIME", "REASON"]
    clauses = clauses_of("recovery policy")
    assert [line.split()[0] for line in lines] == [clause.number for clause in clauses]
    for line, clause in zip(lines, clauses, strict=True):
        assert clause.title in line
    passed = sum("  passed  " in line for line in lines)
    assert passed > 0
    assert last.startswith(f"{passed} passed, 0 failed, {len(lines) - passed} not applicable in ")


def test_a_broken_plugin_fails_with_the_numbers_of_its_clauses(sample: Any, muai: Any) -> None:
    sample("broken")
    done = muai("plugin", "check", "./broken.py", "--only", "e01, E02,E09")
    assert done.status == 1
    lines = done.out.splitlines()
    assert [(line.split()[0], " failed " in line) for line in lines[2:-1]] == [
        ("E01", True),
        ("E02", False),
        ("E09", True),
    ]
    assert "telepathy is no capability; there are: " in done.out
    assert lines[-1].startswith("1 passed, 2 failed, 0 not applicable in ")
    assert "Traceback" not in done.err


def test_as_json_it_is_one_document_whatever_the_plugin_prints(sample: Any, muai: Any) -> None:
    sample("broken")
    done = muai("plugin", "check", "broken.py", "--json")
    assert done.status == 1
    told = json.loads(done.out)
    assert "printed by the plugin" in done.err
    assert told["ok"] is False
    assert list(outcomes(told)) == [clause.number for clause in clauses_of("engine")]
    found = [number for number, outcome in outcomes(told).items() if outcome == "failed"]
    assert found == ["E01", "E09"]
    assert told["failed"] == 2
    assert told["passed"] + told["not_applicable"] == len(outcomes(told)) - 2


def test_without_a_model_an_engine_is_told_how_to_give_one(sample: Any, muai: Any) -> None:
    sample("broken")
    done = muai("plugin", "check", "broken.py", "--only", "E12")
    assert done.status == 0
    assert "not applicable" in done.out
    assert "it needs a model: give one with --model" in done.out


@needs_simulated
def test_an_engine_is_started_with_the_model_and_the_options(
    muai: Any, environ: dict[str, str]
) -> None:
    environ["MUAI_DISABLE_PLUGINS"] = ""
    done = muai(
        *("plugin", "check", "muai_simulated", "--kind", "engine", "--json"),
        *("--model", "simulated:x", "--only", "E12,E13,E52,E62"),
        *("--options", '{"memory_gib": 1, "tokens_per_second": 500}'),
        *("--options", "answer_tokens=8"),
    )
    assert done.status == 0, done.out + done.err
    told = outcomes(json.loads(done.out))
    assert told == dict.fromkeys(("E12", "E13", "E52", "E62"), "passed")


def test_gpus_are_taken_from_the_sources_that_are_there(
    sample: Any, muai: Any, tmp_path: Path
) -> None:
    (tmp_path / "held").mkdir()
    sample("box")
    model = make_model(tmp_path / "model")
    wanted = "E12,E21,E50,E54,E62,E63"
    done = muai(
        *("plugin", "check", "box.py", "--kind", "engine", "--json"),
        *("--only", wanted, "--model", model, "--logs", "kept/here"),
    )
    assert len(list(tmp_path.glob("kept/here/bench-0/*.log"))) >= 2
    assert done.status == 0, done.out + done.err
    assert outcomes(json.loads(done.out)) == dict.fromkeys(wanted.split(","), "passed")


def test_an_engine_without_its_devices_says_so(sample: Any, muai: Any, tmp_path: Path) -> None:
    sample("box")
    model = make_model(tmp_path / "model")
    done = muai("plugin", "check", "box.py", "--kind", "engine", "--only", "E12", "--model", model)
    assert done.status == 0
    assert "the device source fake cannot be asked: FileNotFoundError" in done.err
    assert "it runs on cuda, and there is no such device here" in done.out


@pytest.mark.parametrize("kind", ["device-source", "allocation", "recovery"])
def test_what_is_built_in_passes(kind: str, muai: Any) -> None:
    done = muai("plugin", "check", "muai_core", "--kind", kind, "--json")
    assert done.status == 0, done.out
    assert json.loads(done.out)["passed"] > 0


def test_no_clause_needs_pytest(sample: Any, tmp_path: Path, environ: dict[str, str]) -> None:
    sample("patient")
    code = (
        "import sys; sys.modules['pytest'] = None; from muai_core.cli import main;"
        "sys.exit(main.run(['plugin', 'check', 'patient.py']) or"
        " main.run(['plugin', 'check', 'muai-core', '--kind', 'device-source']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


def test_options_that_must_be_given_are_asked_for(sample: Any, muai: Any) -> None:
    sample("told")
    done = muai("plugin", "check", "told.py")
    assert (done.status, done.out) == (2, "")
    assert "the options of the metric sink told are wrong: file: " in done.err
    assert "give them with --options key=value --kind sink --name told" in done.err
    done = muai("plugin", "check", "told.py", "--options", "file=here", "--options", "depth=x")
    assert done.status == 2
    assert "depth: expected a whole number, got the text 'x'" in done.err
    done = muai("plugin", "check", "told.py", "--options", "file=here", "--only", "S02,S10,S50")
    assert done.status == 0, done.out + done.err
    assert done.out.count("  passed  ") == 3


def test_on_a_terminal_each_line_is_whole_whatever_the_plugin_writes(
    sample: Any, tmp_path: Path, environ: dict[str, str]
) -> None:
    sample("told")
    command = [
        *(sys.executable, "-m", "muai_core.cli.main", "plugin", "check", "told.py"),
        *("--only", "S10,S50", "--options", "file=here"),
    ]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=theirs, stderr=theirs
    ) as check:
        os.close(theirs)
        written = b"".join(_until_closed(ours))
        assert check.wait(timeout=60) == 0
    os.close(ours)
    rows = [line.rpartition("\x1b[2K")[2].rstrip("\r") for line in written.decode().split("\n")]
    titles = {clause.number: clause.title for clause in clauses_of("metric sink")}
    for number in ("S10", "S50"):
        begun = [row for row in rows if row.startswith(f"{number}  {titles[number]}  ")]
        assert sum("\x1b[32mpassed" in row for row in begun) == 1
    assert any("that is all" in row for row in rows)


def _until_closed(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            read = os.read(descriptor, 65536)
        except OSError:  # Its other end was closed.
            return
        if not read:
            return
        yield read


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(
    sample: Any, number: signal.Signals, tmp_path: Path, environ: dict[str, str]
) -> None:
    sample("slow")
    (tmp_path / "temporary").mkdir()
    command = [
        *(sys.executable, "-m", "muai_core.cli.main", "plugin", "check", "slow.py"),
        *("--only", "E12", "--options", "load_s=60", "--model", make_model(tmp_path / "model")),
    ]
    # As a shell would start it: a test runner in the background ignores Ctrl-C.
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as check:
        engines = _wait_for_engine(check)
        check.send_signal(number)
        told, _ = check.communicate(timeout=60)
    assert check.returncode == 130, told
    assert "interrupted\nending what was started ...\n" in told
    assert "Traceback" not in told
    # One that has ended may wait for init to take note of it.
    assert not [one for one in engines if one.is_running() and one.status() != "zombie"]
    assert list((tmp_path / "temporary").iterdir()) == []


def _wait_for_engine(check: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes of the replica, once there are any."""
    give_up_at_s = time.monotonic() + 60
    while time.monotonic() < give_up_at_s:
        found = psutil.Process(check.pid).children(recursive=True)
        engines = [one for one in found if "fakes.server" in " ".join(_command(one))]
        if engines:
            return found
        time.sleep(0.02)
    pytest.fail("no engine was started")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
