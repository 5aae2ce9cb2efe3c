"""A fake NVML for the tests: the library, built once a session, and GPUs that a test plays with."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The import mode leaves sys.path alone, and the fake is a program of its own.
sys.path.insert(0, str(Path(__file__).parent / "fake_nvml"))

from fake_nvml import FakeNvml
from fake_nvml_build import build


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
