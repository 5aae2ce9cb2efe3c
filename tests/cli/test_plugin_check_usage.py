"""`muai plugin check` used wrongly: where, what, and what to do."""

from pathlib import Path
from typing import Any

import pytest

WRONG = {
    "no such plugin": (["nvmll"], "no plugin 'nvmll' is installed"),
    "nothing": ([""], "no plugin '' is installed"),
    "control characters": (["a\x1b[31m\nb"], "no plugin 'a\\x1b[31m\\nb' is installed"),
    "no such file": (["gone.py"], "there is no file gone.py; give a plugin's .py file"),
    "a folder": (["./folder"], "./folder is a folder; install the package (pip install -e"),
    "a path that is too long": (["x" * 5000 + ".py"], "cannot be read: OSError"),
    "no such kind": (["patient.py", "--kind", "gpu"], "'gpu' is not one of 'engine'"),
    "a kind that it has not": (
        ["patient.py", "--kind", "sink"],
        "it registers no such part; it registers: recovery policy patient",
    ),
    "no such part": (["patient.py", "--name", "x"], "it registers no such part"),
    "no such clause": (["patient.py", "--only", "E01"], "--only E01: no clause of that number"),
    "no clause": (["patient.py", "--only", ""], "--only '': no clause of that number; there are: "),
    "a model for no engine": (["patient.py", "--model", "x"], "--model is for engines"),
    "an interpreter for none": (["patient.py", "--python", "x"], "--python is for engines"),
    "logs of none": (["patient.py", "--logs", "x"], "--logs is for engines"),
    "options of one that has none": (
        ["patient.py", "--options", "a=1"],
        "the recovery policy patient has no options",
    ),
    "options that are none": (["patient.py", "--options", "a"], "--options takes key=value"),
    "half an object": (["patient.py", "--options", "{"], "--options: not YAML"),
    "half a value": (["patient.py", "--options", "a=["], "--options a: not YAML"),
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
def folder(sample: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    sample("patient")
    sample("broken")
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
    sample: Any, muai: Any, tmp_path: Path, environ: dict[str, str]
) -> None:
    sample("patient")
    environ["MUAI_DISABLE_PLUGINS"] = "all"
    done = muai("plugin", "check", "patient.py")
    assert done.status == 2
    assert "patient is left out by MUAI_DISABLE_PLUGINS; unset that" in done.err
