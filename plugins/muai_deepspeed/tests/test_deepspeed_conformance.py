"""The engine `deepspeed` keeps the contract of all engines, also with its ranks on one CPU."""

from pathlib import Path

import pytest
from muai_deepspeed.engine import DeepSpeedEngine

from muai_core import Deployment, Shape
from muai_core.testing import EngineConformance

pytestmark = pytest.mark.alone


class TestDeepSpeedEngine(EngineConformance):
    @pytest.fixture(autouse=True)
    def _model(self, tiny_folder: Path) -> None:
        type(self).folder = tiny_folder

    def make_engine(self) -> DeepSpeedEngine:
        return DeepSpeedEngine()

    def make_deployment(self, tmp_path: Path) -> Deployment:
        return Deployment(
            name="tiny",
            source=str(self.folder),
            engine="deepspeed",
            platforms=("cpu",),
            dtype="float32",
            max_model_len=512,
        )

    def make_shapes(self) -> tuple[Shape, ...]:
        return (Shape(2, 1), Shape(1, 2), Shape(2, 2))
