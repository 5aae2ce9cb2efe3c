"""Every command of docs/planning.md is run as it stands there, on devices that are not here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from muai_core.model import objective

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "planning.md").read_text("utf-8")
COMMANDS = re.findall(r"^(muai [^#\n]*?)(?: +# status (\d))?$", TEXT, re.MULTILINE)
INSTALLED = {point.name for point in entry_points(group="muai")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples, and beside them the strategy that the page shows."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "examples" / "most_free.py").write_text(code)
    return tmp_path


def test_there_are_commands_to_run() -> None:
    told = " ".join(command for command, _ in COMMANDS)
    for word in ("memory", "--strategy packed", "--strategy cpsat", "--without", "most_free"):
        assert word in told


@pytest.mark.parametrize(("command", "status"), COMMANDS, ids=[one for one, _ in COMMANDS])
def test_a_command_does_what_the_page_says(command: str, status: str, folder: Path) -> None:
    if "cpsat" in command and "cpsat" not in INSTALLED:
        pytest.skip("the plugin muai_cpsat is not installed")
    if command.startswith("muai plan") and "simulated" not in INSTALLED:
        pytest.skip("the plugin muai_simulated is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "muai_core.cli.main", *shlex.split(command)[1:]],
        cwd=folder,
        env={
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            "HOME": str(folder),
            "MUAI_STATE_DIR": str(folder / "state"),
        },
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == int(status or 0), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("what", "points"),
    [
        ("models served", objective.SERVED),
        ("parallelism kept", objective.ECONOMY),
        ("moves", objective.STAYED),
        ("topology", objective.TOPOLOGY),
        ("balance", objective.BALANCE),
    ],
)
def test_the_points_of_the_page_are_those_of_the_objective(what: str, points: int) -> None:
    (told,) = re.findall(rf"^\| {what} \| (?:up to )?([\d,]+) \|", TEXT, re.MULTILINE)
    assert int(told.replace(",", "")) == points
