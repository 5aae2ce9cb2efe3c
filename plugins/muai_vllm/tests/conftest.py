"""Models for the tests, and the interpreter that has vLLM."""

import os
from pathlib import Path

import pytest
from muai_torch.testing import save_random_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """vLLM lives in an environment of its own."""
    python = Path(os.environ.get("MUAI_TEST_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")
    if not python.exists() and not os.environ.get("CI"):
        pytest.skip(f"no vLLM: `make setup-test` makes {python}, or set MUAI_TEST_VLLM_PYTHON")
    return str(python)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random; heads of 64 values, because vLLM's attention for CPUs refuses 16."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    return save_random_model(folder, hidden_size=256, head_dim=64, intermediate_size=512)
