"""`muai plugin new`: skeletons that work as they are, and the names that it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muai_core.cli.plugin_kinds import KIND_WORDS

ROOT = Path(__file__).parents[2]
#: What is given to `muai plugin check`, by kind.
ARGUMENTS = {
    # All of its clauses are tried by the tutorial's test.
    "engine": ("--model", "{}/example/story.txt", "--only", "E01,E02,E03,E04,E05,E09,E12,E52"),
    "device-source": ("--options", "file={}/example/devices.json"),
    "sink": ("--options", "file={}/metrics.json"),
}

Author = Callable[..., "subprocess.CompletedProcess[str]"]


def package(kind: str) -> str:
    return f"muai_my_{kind.replace('-', '_')}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, author: Author) -> Path:
    """A folder with a skeleton of each kind, all of them installed."""
    folder = tmp_path_factory.mktemp("written")
    for kind in KIND_WORDS:
        done = author("muai", "plugin", "new", package(kind), "--kind", kind, cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
        first, *rest = done.stdout.splitlines()
        assert first.startswith(f"{package(kind)} is written: the ")
        assert f"next: pip install -e ./{package(kind)}" in rest
    wanted = [word for kind in KIND_WORDS for word in ("-e", f"./{package(kind)}")]
    done = author("pip", "install", "--quiet", *wanted, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", KIND_WORDS)
def test_a_skeleton_passes_the_clauses_of_its_kind(
    kind: str, written: Path, author: Author
) -> None:
    arguments = [word.format(package(kind)) for word in ARGUMENTS.get(kind, ())]
    done = author("muai", "plugin", "check", package(kind), *arguments, "--json", cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
    [part] = json.loads(done.stdout)["parts"]
    outcomes = {clause["number"]: clause["outcome"] for clause in part["clauses"]}
    assert part["name"] == package(kind).removeprefix("muai_")
    assert "failed" not in outcomes.values()
    assert list(outcomes.values()).count("passed") >= 4


def test_a_skeleton_passes_without_any_options(written: Path, author: Author) -> None:
    for kind in ("engine", "device-source", "sink"):
        done = author("muai", "plugin", "check", package(kind), cwd=written)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_of_the_skeletons_pass(written: Path, author: Author) -> None:
    options = ("-o", "addopts=", "-p", "no:cacheprovider")
    folders = [package(kind) for kind in KIND_WORDS if kind != "engine"]
    done = author("pytest", *options, *folders, cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    # Of the engine's all are tried by the tutorial's test, if not by pytest.
    done = author("pytest", *options, "-k", "E02 or E13 or E52", package("engine"), cwd=written)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_config_that_uses_them_all_is_sound(written: Path, author: Author) -> None:
    (written / "muai.yaml").write_text(f"""\
devices:
  sources: [my_device_source, cpu]
  my_device_source: {{file: {package("device-source")}/example/devices.json}}
allocation: {{strategy: my_allocation, options: {{prefer: fullest}}}}
recovery: {{policy: my_recovery, options: {{attempts: 3}}}}
sinks: {{my_sink: {{file: metrics.json}}}}
models: {{story: {{source: {package("engine")}/example/story.txt, engine: my_engine}}}}
""")
    done = author("muai", "devices", "muai.yaml", "--json", cwd=written)
    found = {device["uuid"]: device["health"] for device in json.loads(done.stdout)}
    assert found["my_device_source-0"] == "healthy"
    assert found["my_device_source-1"] == "degraded"
    done = author("muai", "plan", "muai.yaml", cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the fullest" in done.stdout


def test_the_code_of_the_skeletons_is_in_order(written: Path) -> None:
    config = ("--config", str(ROOT / "pyproject.toml"), "--no-cache")
    for command in (["check", *config], ["format", "--check", *config]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(written)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_they_register_is_listed(written: Path, author: Author) -> None:
    done = author("muai", "plugins", "--json", cwd=written)
    found = {plugin["name"]: plugin["registers"] for plugin in json.loads(done.stdout)}
    assert found["my_engine"] == [{"kind": "engine", "name": "my_engine"}]
    assert found["my_sink"] == [{"kind": "metric sink", "name": "my_sink"}]


NAMES = {
    "": "'' is no name for a package",
    "Parrot": "'Parrot' is no name for a package; it has lower case letters, digits and single "
    "underscores, begins with a letter, and has 40 characters at most; did you mean parrot?",
    "my-parrot": "did you mean my_parrot?",
    "2x": "'2x' is no name for a package",
    "muai_2x": "'muai_2x' is no name for a package",
    "muai_": "'muai_' is no name for a package",
    "_x": "did you mean x?",
    "x__y": "did you mean x_y?",
    "../evil": "'../evil' is no name for a package",
    "a/b": "'a/b' is no name for a package",
    "/etc/parrot": "is no name for a package",
    "pärrot": "is no name for a package",
    "parrot\n": "'parrot\\n' is no name for a package",
    "x" * 41: "is no name for a package",
    "x" * 100_000: "is no name for a package",
    "$(touch evil)": "is no name for a package",
    "class": "class is a word of Python itself",
    "json": "a Python package json exists already, which this one would hide",
    "pydantic": "a Python package pydantic exists already",
    "tests": "a Python package tests exists already",
    "muai_core": "a Python package muai_core exists already",
    "muai_balanced": "the allocation strategy name balanced is taken, see `muai plugins`",
}


@pytest.mark.parametrize(("name", "words"), NAMES.items(), ids=[name[:20] for name in NAMES])
def test_a_name_that_cannot_be_is_refused(name: str, words: str, muai: Any, tmp_path: Path) -> None:
    done = muai("plugin", "new", "--kind", "allocation", "--", name)
    assert (done.status, done.out) == (2, "")
    assert words in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", ["mkdir", "touch", "link"])
def test_what_exists_is_not_touched(make: str, muai: Any, tmp_path: Path) -> None:
    taken = tmp_path / "muai_parrot"
    if make == "link":
        taken.symlink_to("nowhere")
    else:
        getattr(taken, make)()
    done = muai("plugin", "new", "muai_parrot", "--kind", "sink")
    assert (done.status, done.out) == (2, "")
    assert "muai_parrot exists, and nothing is overwritten; choose another name" in done.err
    assert list(tmp_path.iterdir()) == [taken]
    assert not taken.is_dir() or list(taken.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(muai: Any, tmp_path: Path) -> None:
    done = muai("plugin", "new", "muai_parrot", "--kind", "sink", "--directory", "gone")
    assert done.status == 2
    assert "--directory gone: there is no such folder; make it first" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_leaves_nothing(muai: Any) -> None:
    done = muai("plugin", "new", "muai_parrot", "--kind", "sink", "--directory", "/proc")
    assert done.status == 1
    assert "/proc/muai_parrot cannot be written: " in done.err
    assert "Traceback" not in done.err


def test_the_kind_must_be_one_of_the_five(muai: Any) -> None:
    assert "Missing option '--kind'" in muai("plugin", "new", "muai_parrot").err
    done = muai("plugin", "new", "muai_parrot", "--kind", "gpu")
    assert done.status == 2
    for kind in KIND_WORDS:
        assert f"'{kind}'" in done.err
