"""A real controller as a child process: `muai run` on free ports, with its own state directory."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from muai_core.testing.running_muai import Start, controllers, free_port, muai, wait_until


@pytest.fixture
def run_muai(tmp_path: Path) -> Iterator[Start]:
    with controllers(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with controllers(tmp_path_factory.mktemp("muai")) as start:
        yield start


@pytest.fixture(scope="session")
def unused_port() -> Callable[[], int]:
    return free_port


@pytest.fixture
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return muai


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return wait_until


def simulated(replicas: int = 1, **options: Any) -> dict[str, Any]:
    """A config with one simulated model `chat` on four simulated GPUs."""
    return {
        "models": {
            "chat": {
                "source": "simulated:chat",
                "engine": "simulated",
                "replicas": replicas,
                "engine_options": {"memory_gib": 10, "load_s": 0, **options},
            }
        },
        "devices": {"simulated": {"gpus": 4}, "observe_interval_s": 0.5},
        "recovery": {"backoff_initial_s": 0.2, "drain_s": 5, "stop_grace_s": 2},
        "sinks": {},
    }


@pytest.fixture
def simulated_config() -> Callable[..., dict[str, Any]]:
    return simulated
