"""The engines from Python with the real vLLM and the real DeepSpeed, on the CPU."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from muai_core.api import (
    DeepSpeedConfig,
    DeepSpeedEngine,
    ServedEngine,
    VLLMConfig,
    VLLMEngine,
)

pytestmark = pytest.mark.alone

VLLM_PYTHON = Path(
    os.environ.get("MUAI_TEST_VLLM_PYTHON")
    or Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
)
#: On this machine there may be GPUs; these tests are about the CPU.
DEVICES = {"sources": ["cpu"]}
PROMPT = "Hello"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers, four heads of 64 values, random weights."""
    from muai_torch.testing import save_random_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_random_model(folder, hidden_size=256, num_hidden_layers=4)


def leaves_nothing(engine: ServedEngine[Any], wait_until: Callable[..., Any]) -> None:
    assert engine._loaded is not None
    controller = psutil.Process(engine._loaded.controller.pid)
    started = [controller, *controller.children(recursive=True)]
    engine.unload()
    wait_until(lambda: not any(process.is_running() for process in started))


@pytest.mark.timeout(400)
def test_deepspeed_with_tensor_and_pipeline_parallelism(
    tiny: Path, wait_until: Callable[..., Any]
) -> None:
    options: dict[str, Any] = {"models": {"tiny": tiny}, "dtype": "float32", "max_model_len": 128}
    answers = []
    for config in (
        DeepSpeedConfig(tensor_parallel=2, pipeline_parallel=2, **options),
        DeepSpeedConfig(**options),
    ):
        engine = DeepSpeedEngine(config, devices=DEVICES)
        try:
            allocation = engine.load_model("tiny")
            answers.append(engine.generate(PROMPT, max_tokens=16))
            if len(answers) == 1:
                assert engine.get_pipeline_allocation() == [[0, 1], [2, 3]]
                assert engine.get_allocated_gpus() == []
                assert (engine.model, allocation.where) == ("tiny", "cpu")
                assert "no GPU was found" in engine.fallbacks[0].reason
            leaves_nothing(engine, wait_until)
        finally:
            engine.unload()
    assert answers[0].completion_tokens == 16
    assert answers[0] == answers[1]


@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not VLLM_PYTHON.exists() and not os.environ.get("CI"),
    reason=f"no vLLM: `make setup-test` makes {VLLM_PYTHON}, or set MUAI_TEST_VLLM_PYTHON",
)
def test_vllm_with_tensor_parallelism(tiny: Path, wait_until: Callable[..., Any]) -> None:
    config = VLLMConfig(
        tensor_parallel_size=2,
        models={"tiny": tiny},
        python=str(VLLM_PYTHON),
        dtype="float32",
        max_model_len=128,
        concurrency=16,
        options={"enforce_eager": True},
    )
    engine = VLLMEngine(config, devices=DEVICES)
    try:
        allocation = engine.load_model("tiny")
        assert allocation.where == "cpu"
        assert engine.get_pipeline_allocation() == [[0, 1]]
        assert engine.get_allocated_gpus() == []
        answer = engine.generate(PROMPT, max_tokens=8)
        assert answer.completion_tokens == 8
        assert engine.generate(PROMPT, max_tokens=8) == answer
        leaves_nothing(engine, wait_until)
    finally:
        engine.unload()
