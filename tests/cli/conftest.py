import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

HERE = Path(__file__).parent


class Done(Struct, frozen=True):
    """What a finished command left: its exit status and its two streams."""

    status: int
    out: str
    err: str


Muai = Callable[..., Done]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def environ(tmp_path: Path, state_dir: Path) -> dict[str, str]:
    """The environment of commands: nothing of the user's, no installed plugin."""
    installed = [point.name for point in entry_points(group="muai")]
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {
        **kept,
        "HOME": str(tmp_path),
        "MUAI_STATE_DIR": str(state_dir),
        "MUAI_DISABLE_PLUGINS": ",".join(installed),
    }


@pytest.fixture
def muai(tmp_path: Path, environ: dict[str, str]) -> Muai:
    """Runs one command in a process of its own, in the test's folder, to its end."""

    def run(*arguments: str, **variables: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "muai_core.cli.main", *arguments],
            cwd=tmp_path,
            env={**environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def fleet_config(tmp_path: Path) -> Callable[[str], str]:
    """Writes a config on the four fake GPUs with the given `models`; returns its file's name."""

    def write(models: str) -> str:
        shutil.copy(HERE / "fake_fleet.py", tmp_path)
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / "config.json").write_text("{}")
        (tmp_path / "muai.yaml").write_text(
            "plugins: [fake_fleet.py]\ndevices: {sources: [fake]}\nmodels:\n" + models
        )
        return "muai.yaml"

    return write


@pytest.fixture
def sample(tmp_path: Path) -> Callable[[str], None]:
    """Puts a plugin of `sample_plugins/` into the test's folder."""

    def copy(name: str) -> None:
        shutil.copy(HERE / "sample_plugins" / f"{name}.py", tmp_path)

    return copy


@pytest.fixture
def muai_json(muai: Muai) -> Callable[..., Any]:
    """Runs a command with --json; returns what it printed, decoded."""
    return lambda *arguments: json.loads(muai(*arguments, "--json").out)


@pytest.fixture
def plan_json(
    muai_json: Callable[..., Any], fleet_config: Callable[[str], str]
) -> Callable[[str], Any]:
    """The plan of the given `models` on the fake fleet."""
    return lambda models: muai_json("plan", fleet_config(models))


@pytest.fixture
def explain_json(
    muai_json: Callable[..., Any], fleet_config: Callable[[str], str]
) -> Callable[[str, str], Any]:
    """The explanation of one of the given `models` on the fake fleet."""
    return lambda model, models: muai_json("explain", model, fleet_config(models))
