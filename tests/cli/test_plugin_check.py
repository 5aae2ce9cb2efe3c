"""`muai plugin check`: outcomes, exit statuses, and what it says about wrong usage."""

import json
import signal
import subprocess
import sys
import time
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

#: A policy that keeps its contract.
POLICY = """\
import muai_core

class Patient(muai_core.RecoveryPolicy):
    name = "patient"

    def decide(self, loss, backoff_initial_s, backoff_max_s):
        return muai_core.RestartAfter(backoff_initial_s, "again")

@muai_core.hookimpl
def muai_recovery_policies():
    return [Patient()]
"""
#: An engine that breaks E01 and E09, and nothing else that can be seen without a model.
BROKEN = """\
import muai_core

class Broken(muai_core.Engine):
    name = "broken"
    platforms = ("cpu",)
    capabilities = ("streaming", "telepathy")

    def options_model(self):
        from pydantic import BaseModel

        class Options(BaseModel):
            anything: int = 1

        return Options

    def suits(self, deployment):
        return muai_core.Suitability(False, "it suits nothing")

    def launch(self, request):
        raise NotImplementedError

@muai_core.hookimpl
def muai_engines():
    print("printed by the plugin")
    return [Broken()]
"""
#: Four GPUs and an engine for them; what is held of their memory stands in a folder.
BOX = """\
from pathlib import Path

import muai_core
from muai_core.testing.fakes.engine import FakeDevices, FakeEngine

HELD = Path(__file__).with_name("held")

@muai_core.hookimpl
def muai_device_sources():
    return [FakeDevices(HELD)]

@muai_core.hookimpl
def muai_engines():
    return [FakeEngine(folder=HELD)]
"""
#: The fake engine of the kit on the CPU; it takes a minute to load.
SLOW = """\
import muai_core
from muai_core.testing.fakes.engine import FakeEngine

class Slow(FakeEngine):
    platforms = ("cpu",)

@muai_core.hookimpl
def muai_engines():
    return [Slow()]
"""


def outcomes(told: Any) -> dict[str, str]:
    [part] = told["parts"]
    return {clause["number"]: clause["outcome"] for clause in part["clauses"]}


def test_a_sound_plugin_passes_with_a_line_for_each_clause(muai: Any, tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(POLICY)
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


def test_a_broken_plugin_fails_with_the_numbers_of_its_clauses(muai: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
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


def test_as_json_it_is_one_document_whatever_the_plugin_prints(muai: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
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


def test_without_a_model_an_engine_is_told_how_to_give_one(muai: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
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


def test_gpus_are_taken_from_the_sources_that_are_there(muai: Any, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "box.py").write_text(BOX)
    model = make_model(tmp_path / "model")
    wanted = "E12,E21,E50,E54,E62,E63"
    done = muai(
        "plugin",
        "check",
        "box.py",
        "--kind",
        "engine",
        "--json",
        "--only",
        wanted,
        "--model",
        model,
    )
    assert done.status == 0, done.out + done.err
    assert outcomes(json.loads(done.out)) == dict.fromkeys(wanted.split(","), "passed")


def test_an_engine_without_its_devices_says_so(muai: Any, tmp_path: Path) -> None:
    (tmp_path / "box.py").write_text(BOX)
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


def test_no_clause_needs_pytest(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "patient.py").write_text(POLICY)
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


WRONG = {
    "no such plugin": (["nvmll"], "no plugin 'nvmll' is installed"),
    "nothing": ([""], "no plugin '' is installed"),
    "control characters": (["a\x1b[31m\nb"], "no plugin 'a\\x1b[31m\\nb' is installed"),
    "no such file": (["gone.py"], "there is no file gone.py; give a plugin's .py file"),
    "a folder": (["./folder"], "./folder is a folder; install the package (pip install -e"),
    "a path that is too long": (["x" * 5000 + ".py"], "cannot be read: OSError"),
    "no such kind": (["good.py", "--kind", "gpu"], "'gpu' is not one of 'engine'"),
    "a kind that it has not": (
        ["good.py", "--kind", "sink"],
        "it registers no such part; it registers: recovery policy patient",
    ),
    "no such part": (["good.py", "--name", "x"], "it registers no such part"),
    "no such clause": (["good.py", "--only", "E01"], "--only E01: no clause of that number"),
    "no clause": (["good.py", "--only", ""], "--only '': no clause of that number; there are: "),
    "a model for no engine": (["good.py", "--model", "x"], "--model is for engines"),
    "an interpreter for none": (["good.py", "--python", "x"], "--python is for engines"),
    "options of one that has none": (
        ["good.py", "--options", "a=1"],
        "the recovery policy patient has no options",
    ),
    "options that are none": (["good.py", "--options", "a"], "--options takes key=value"),
    "half an object": (["good.py", "--options", "{"], "--options: not YAML"),
    "half a value": (["good.py", "--options", "a=["], "--options a: not YAML"),
    "options for several": (
        ["muai-core", "--options", "a=1"],
        "--options are of one part; choose it with --kind and --name",
    ),
    "a model that is not there": (
        ["broken.py", "--model", "gone"],
        "--model gone: there is no such path, and the engine broken says: it suits nothing",
    ),
    "no such interpreter": (
        ["broken.py", "--model", "folder", "--python", "no-python"],
        "--python no-python: there is no such program",
    ),
    "a module that raises": (
        ["raises.py"],
        "does not load: ValueError: no more tea (raises.py:3); correct that first",
    ),
    "a module that exits": (["exits.py"], "does not load: SystemExit: 3 (exits.py:1)"),
    "no Python": (["text.py"], "does not load: SyntaxError"),
    "no hooks": (["empty.py"], "does not load: ValueError: registers nothing"),
}


@pytest.fixture
def folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "good.py").write_text(POLICY)
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "raises.py").write_text("import os\n\nraise ValueError('no more tea')\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "text.py").write_text("no Python at all\n")
    (tmp_path / "empty.py").write_text("")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_told_and_nothing_is_tried(
    arguments: list[str], words: str, muai: Any
) -> None:
    done = muai("plugin", "check", *arguments)
    assert (done.status, done.out) == (2, "")
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_plugin_that_is_left_out_says_why(
    muai: Any, tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "patient.py").write_text(POLICY)
    environ["MUAI_DISABLE_PLUGINS"] = "all"
    done = muai("plugin", "check", "patient.py")
    assert done.status == 2
    assert "patient is left out by MUAI_DISABLE_PLUGINS; unset that" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(
    number: signal.Signals, tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
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
