"""A model for the tests: a tiny random Llama."""

import os
from pathlib import Path

# As the worker does, before torch starts its threads: tests share the machine with others.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
from muai_torch.testing import save_random_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama in a Hugging Face folder; it hardly ever ends by itself."""
    return save_random_model(tmp_path_factory.mktemp("tiny-llama"))
