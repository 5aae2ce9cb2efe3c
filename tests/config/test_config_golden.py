"""Every mistake of golden/*.yaml gives exactly the text beside it.

A case may begin with `# env: NAME=VALUE` and `# set: path=value` lines. After a change of the
wording, `MUAI_UPDATE_GOLDEN=1 pytest tests/config` rewrites the texts; read the difference.
"""

import os
from pathlib import Path

import pytest
from msgspec import structs

from muai_core.config import ConfigError
from muai_core.config.errors import Problem, report

GOLDEN = Path(__file__).parent / "golden"
#: Read before any fixture tidies the environment.
UPDATE = bool(os.environ.get("MUAI_UPDATE_GOLDEN"))
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


def _marked(text: str, mark: str) -> list[str]:
    return [line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark)]


def _without(problem: Problem, folder: Path) -> Problem:
    """Before it is laid out: the folder's length must not decide where lines break."""
    return structs.replace(problem, message=problem.message.replace(str(folder), "FOLDER"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "model.onnx").write_bytes(b"ONNX")
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "empty.gguf").chmod(0o644)
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "plugin_broken.py").write_text("import no_such_module_here\n")
    (tmp_path / "plugin_silent.py").write_text("value = 1\n")
    (tmp_path / "llm_weights").mkdir()
    (tmp_path / "llm_weights" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_mistake_has_exactly_this_text(case: str, folder: Path, load) -> None:
    text = (GOLDEN / f"{case}.yaml").read_bytes()
    (folder / f"{case}.yaml").write_bytes(text)
    environ = dict(pair.split("=", 1) for pair in _marked(text.decode(), "# env: "))
    with pytest.raises(ConfigError) as raised:
        load(f"{case}.yaml", _marked(text.decode(), "# set: "), environ)
    told = report([_without(problem, folder) for problem in raised.value.problems]) + "\n"
    golden = GOLDEN / f"{case}.txt"
    if UPDATE:
        golden.write_text(told)
    assert told == golden.read_text()


def test_there_are_enough_different_mistakes() -> None:
    assert len(CASES) >= 30
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)
