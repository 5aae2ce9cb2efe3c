"""Controllers on fake GPUs of their own."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml

pytest.importorskip("muai_simulated", reason="needs the distribution muai-simulated")
pytest.importorskip("muai_prometheus", reason="needs the distribution muai-prometheus")

sys.path.insert(0, str(Path(__file__).parent))

from running_on_fake import Running

Start = Callable[..., Running]


@contextlib.contextmanager
def starter(folder: Path, library: Path) -> Iterator[Start]:
    """start(gpus=8, profile="h200", given=..., **as for Running): a controller that is ready.

    `given(fake)` is called before it starts.
    """
    started: list[Running] = []

    def start(
        gpus: int = 8,
        profile: str = "h200",
        given: Callable[[FakeNvml], None] = lambda fake: None,
        **settings: Any,
    ) -> Running:
        mine = folder / f"muai-{len(started)}"
        fake = FakeNvml(mine / "nvml" / "state", gpus=gpus, profile=profile, library=library)
        given(fake)
        started.append(Running(fake, mine, **settings))
        started[-1].wait_ready("chat")
        return started[-1]

    try:
        yield start
    finally:
        for running in started:
            running.clean_up()


@pytest.fixture
def start_muai(tmp_path: Path, nvml_library: Path) -> Iterator[Start]:
    with starter(tmp_path, nvml_library) as start:
        yield start


@pytest.fixture(scope="module")
def start_for_module(
    tmp_path_factory: pytest.TempPathFactory, nvml_library: Path
) -> Iterator[Start]:
    with starter(tmp_path_factory.mktemp("muai"), nvml_library) as start:
        yield start
