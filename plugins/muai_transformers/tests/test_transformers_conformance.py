"""The engine `transformers` keeps the contract of all engines."""

from pathlib import Path

import pytest
from muai_transformers.engine import TransformersEngine

from muai_core import Deployment
from muai_core.testing import EngineConformance

pytestmark = pytest.mark.alone


class TestTransformersEngine(EngineConformance):
    @pytest.fixture(autouse=True)
    def _model(self, tiny_folder: Path) -> None:
        type(self).folder = tiny_folder

    def make_engine(self) -> TransformersEngine:
        return TransformersEngine()

    def make_deployment(self, tmp_path: Path) -> Deployment:
        return Deployment(
            name="tiny",
            source=str(self.folder),
            engine="transformers",
            platforms=("cpu",),
            dtype="float32",
            max_model_len=512,
        )
