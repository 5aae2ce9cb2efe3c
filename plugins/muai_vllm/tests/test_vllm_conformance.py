"""The engine `vllm` keeps the contract of all engines: the real server, on the CPU."""

from pathlib import Path

import pytest
from muai_vllm.engine import VllmEngine

from muai_core import Deployment, Shape
from muai_core.testing import EngineConformance
from muai_core.testing.engine import Limits

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]


class TestVllmEngine(EngineConformance):
    #: With less, vLLM dies of it in the middle of its imports, without a word about memory.
    limits = Limits(starved_bytes=1750 * 1024**2)

    @pytest.fixture(autouse=True)
    def _real(self, vllm_python: str, tiny_llama: Path) -> None:
        type(self).python = vllm_python
        type(self).folder = tiny_llama

    def make_engine(self) -> VllmEngine:
        engine = VllmEngine()
        engine.python = self.python
        return engine

    def make_deployment(self, tmp_path: Path) -> Deployment:
        return Deployment(
            name="tiny",
            source=str(self.folder),
            engine="vllm",
            platforms=("cpu",),
            dtype="float32",
            max_model_len=512,
            engine_options={"enforce_eager": True},
        )

    def make_shapes(self) -> tuple[Shape, ...]:
        return (Shape(2, 1), Shape(1, 2))
