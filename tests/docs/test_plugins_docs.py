"""What docs/plugins/ shows is run as it stands there, and its tables are those of the code."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_args
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from muai_core.testing.clauses import Kind, clauses_of

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "docs" / "plugins"
TUTORIAL = (PLUGINS / "tutorial.md").read_text("utf-8")
INSTALLED = {point.name for point in entry_points(group="muai")}
HEADINGS: dict[Kind, str] = {
    "engine": "Engines",
    "device source": "Device sources",
    "allocation strategy": "Allocation strategies",
    "recovery policy": "Recovery policies",
    "metric sink": "Metric sinks",
}
#: Where the gateway of the tutorial listens.
ADDRESS = "127.0.0.1:8000"
WITHIN_S = 120.0
#: Clauses that the engine of the tutorial keeps, and that do not depend on much.
KEPT = ("E01", "E05", "E10", "E13", "E18", "E30", "E32", "E33", "E34", "E41", "E52", "E58", "E61")

Author = Callable[..., "subprocess.CompletedProcess[str]"]


# The tables of clauses


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_table_of_a_kind_is_that_of_its_clauses(kind: Kind) -> None:
    text = (PLUGINS / "conformance.md").read_text("utf-8")
    _, found, rest = text.partition(f"\n## {HEADINGS[kind]}\n")
    assert found
    told = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
    wanted = [
        f"| {clause.number} | {clause.title} | "
        f"{', '.join(f'`{word}`' for word in clause.needs) or '-'} |"
        for clause in clauses_of(kind)
    ]
    assert told[2:] == wanted


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_title_is_a_sentence_of_its_own(kind: Kind) -> None:
    titles = [clause.title for clause in clauses_of(kind)]
    assert titles
    assert len(set(titles)) == len(titles)
    for title in titles:
        assert not title.endswith(".")
        assert "|" not in title


# The examples


def examples() -> Iterator[tuple[str, str]]:
    for page in sorted(PLUGINS.glob("*.md")):
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
            if "@hookimpl" in code:
                yield page.stem, code


EXAMPLES = dict(examples())


def test_most_kinds_have_an_example() -> None:
    assert list(EXAMPLES) == ["device-sources", "engines", "metric-sinks", "recovery-policies"]


@pytest.mark.parametrize(("page", "code"), EXAMPLES.items(), ids=EXAMPLES)
def test_an_example_keeps_the_contract_of_its_kind(
    page: str, code: str, tmp_path: Path, author: Author
) -> None:
    (tmp_path / "example.py").write_text(code)
    done = author("muai", "plugin", "check", "example.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


@pytest.mark.skipif("simulated" not in INSTALLED, reason="muai_simulated is not installed")
def test_the_class_of_the_page_gives_a_test_for_each_clause(tmp_path: Path, author: Author) -> None:
    text = (PLUGINS / "conformance.md").read_text("utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "test_shown.py").write_text(code)
    done = author("pytest", "-o", "addopts=", "--collect-only", "test_shown.py", cwd=tmp_path)
    assert f"{len(clauses_of('engine'))} tests collected" in done.stdout
    done = author(
        "pytest", "-o", "addopts=", "-k", "E04 or E13 or E50", "test_shown.py", cwd=tmp_path
    )
    assert "3 passed" in done.stdout, done.stdout


# The tutorial, from its beginning to its end


class Reader:
    """Does what the page says, in one folder."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.environ = {**environ, "MUAI__GATEWAY__PORT": str(self.port)}
        #: Of the last block that was run.
        self.told = ""
        self.server: subprocess.Popen[str] | None = None

    def do(self, language: str, text: str) -> None:
        if language == "sh":
            self.told = "".join(map(self._shell, text.splitlines()))
        elif language == "python":
            self._python(text)
        else:
            shown = self.told
            for line in text.splitlines():
                assert _plain(line) in _plain(shown), f"the page shows {line!r}, not {shown!r}"

    def _shell(self, line: str) -> str:
        if line.startswith("muai run "):
            return self._serve(line)
        command, _, status = line.partition("  # status ")
        done = self._run(["bash", "-c", command])
        assert done.returncode == int(status or 0), f"{line}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def _python(self, text: str) -> None:
        if named := re.match(r"# (\S+\.py)\n", text):
            (self.folder / named[1]).write_text(text)
            return
        done = self._run([sys.executable, "-c", text.replace(ADDRESS, f"127.0.0.1:{self.port}")])
        assert done.returncode == 0, done.stderr
        self.told = done.stdout

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            encoding="utf-8",
            timeout=WITHIN_S,
            check=False,
        )

    def _serve(self, line: str) -> str:
        """In another terminal; returns when the model is ready, as the page says."""
        with (self.folder / "run.log").open("w") as log:
            self.server = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        give_up_at_s = time.monotonic() + WITHIN_S
        while not self._ready():
            log_text = (self.folder / "run.log").read_text()
            assert self.server.poll() is None, log_text
            assert time.monotonic() < give_up_at_s, log_text
            time.sleep(0.05)
        return ""

    def _ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                return bool(json.load(reply)["ready"]["story"])
        except (URLError, OSError):
            return False


def _plain(text: str) -> str:
    """Without the widths of columns and what a clock says."""
    return " ".join(re.sub(r"\b\d+\.\d s\b", "0.0 s", text).split())


@pytest.fixture
def reader(tmp_path: Path, author_environ: dict[str, str]) -> Iterator[Reader]:
    reader = Reader(tmp_path, author_environ)
    yield reader
    if reader.server is not None and reader.server.poll() is None:
        reader.server.terminate()
        reader.server.wait(WITHIN_S)


@pytest.mark.timeout(400)
def test_the_tutorial_goes_as_it_says(reader: Reader) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", TUTORIAL, re.M | re.S)
    assert {language for language, _ in blocks} == {"sh", "python", ""}
    passed: set[str] = set()
    for language, text in blocks:
        reader.do(language, text)
        if language == "sh":
            passed |= set(re.findall(r"^(E\d\d) .*  passed  ", reader.told, re.M))
    assert passed >= {*KEPT, "E36"}
    assert reader.server is not None
    assert reader.server.wait(WITHIN_S) == 0
