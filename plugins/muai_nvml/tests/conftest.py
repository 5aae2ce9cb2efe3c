"""A fake NVML for the tests: the library, built once a session, and GPUs that a test plays with."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The import mode leaves sys.path alone, the fake is a program of its own, tests share a module.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "fake_nvml"))

from fake_nvml import FakeNvml
from fake_nvml_build import build

#: Answers one line of Python with one line of JSON. `n` is pynvml, `gpu(3)` a handle, `code(...)`
#: what a call returns, `codes(handle)` what every getter returns that takes the handle alone.
CLIENT = """
import ctypes, inspect, json, sys, threading, time
import pynvml as n

def plain(value):
    if isinstance(value, ctypes.Array):
        return list(value)
    if isinstance(value, ctypes.Structure):
        return {name: getattr(value, name) for name, *_ in value._fields_}
    return getattr(value, "value", vars(value))

def gpu(index):
    return n.nvmlDeviceGetHandleByIndex(index)

def code(function, *arguments):
    try:
        function(*arguments)
    except n.NVMLError as error:
        return error.value
    except n.NVMLLibraryMismatchError:  # pynvml's word for 13 from the lists of processes
        return n.NVML_ERROR_FUNCTION_NOT_FOUND
    return 0

GETTERS = {
    name: function for name, function in vars(n).items()
    if name.startswith("nvmlDeviceGet") and "HandleFrom" not in name
    and [p.name for p in inspect.signature(inspect.unwrap(function)).parameters.values()
         if p.default is p.empty] in (["handle"], ["device"])
}

def codes(handle):
    return {name: code(function, handle) for name, function in GETTERS.items()}

for line in sys.stdin:
    source = json.loads(line)
    try:
        try:
            compiled = compile(source, "line", "eval")
        except SyntaxError:
            exec(source, globals())
            answer = {"value": None}
        else:
            answer = {"value": eval(compiled, globals())}
    except n.NVMLError as error:
        answer = {"refused": error.value}
    print(json.dumps(answer, default=plain), flush=True)
"""


@dataclass(frozen=True)
class Refused:
    """The code of the NVMLError that pynvml raised."""

    code: int


class NvmlProcess:
    """A process in which the real pynvml has loaded the fake library."""

    def __init__(self, fake: FakeNvml) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env=fake.env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> Any:
        """The value of an expression (None after statements), or what was Refused."""
        self.send(line)
        return self.answer()

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        said = self.process.stdout.readline()
        assert said, "the process that asks NVML ended; its words are on stderr"
        answer = json.loads(said)
        return Refused(answer["refused"]) if "refused" in answer else answer["value"]


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the built `libnvidia-ml.so.1`, for LD_LIBRARY_PATH."""
    return build(tmp_path_factory.mktemp("fake-nvml")).parent


@pytest.fixture
def make_fake_nvml(nvml_library: Path, tmp_path: Path) -> Callable[..., FakeNvml]:
    """make_fake_nvml(gpus=8, profile="h200"): a driver of the test's own, in its own file."""
    made: list[FakeNvml] = []

    def make(gpus: int = 8, profile: str = "h200") -> FakeNvml:
        path = tmp_path / f"nvml-{len(made)}" / "state"
        made.append(FakeNvml(path, gpus=gpus, profile=profile, library=nvml_library))
        return made[-1]

    return make


@pytest.fixture
def fake_nvml(make_fake_nvml: Callable[..., FakeNvml]) -> FakeNvml:
    """Eight H200; start processes with env=fake_nvml.env()."""
    return make_fake_nvml()


@pytest.fixture
def start_nvml_process() -> Iterator[Callable[..., NvmlProcess]]:
    """start_nvml_process(fake, initialised=True): a NvmlProcess, ended with the test."""
    started: list[NvmlProcess] = []

    def start(fake: FakeNvml, *, initialised: bool = True) -> NvmlProcess:
        started.append(NvmlProcess(fake))
        if initialised:
            assert started[-1].ask("n.nvmlInit()") is None
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def nvml_process(
    fake_nvml: FakeNvml, start_nvml_process: Callable[..., NvmlProcess]
) -> NvmlProcess:
    """An initialised process on `fake_nvml`."""
    return start_nvml_process(fake_nvml)


@pytest.fixture(name="Refused")
def _refused() -> type[Refused]:
    return Refused


@pytest.fixture
def open_nvml_source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """open_nvml_source(fake, listen=..., command=..., **options): an open `NvmlSource` on it."""
    from muai_nvml.source import NvmlSource

    opened: list[NvmlSource] = []

    def open_source(
        fake: FakeNvml,
        listen: Callable[..., None] | None = None,
        command: Any = None,
        **options: Any,
    ) -> NvmlSource:
        for name, value in fake.env().items():
            monkeypatch.setenv(name, value)
        source = NvmlSource(command)
        opened.append(source)
        source.open(options)
        if listen is not None:
            source.listen(listen)
        return source

    yield open_source
    for source in opened:
        source.close()
