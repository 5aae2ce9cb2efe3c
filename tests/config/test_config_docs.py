"""docs/configuration.md holds every key of every core section: value, default and meaning."""

from pathlib import Path
from types import NoneType
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from muai_core.config import schema
from muai_core.config.overrides import OPTIMIZATION_VARIABLES
from muai_core.config.rendering import yaml_scalar
from muai_core.config.wording import expected

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "models.<name>": schema.ModelConfig,
    "models.<name>.affinity": schema.AffinityConfig,
    "devices": schema.DevicesConfig,
    "devices.health": schema.HealthConfig,
    "allocation": schema.AllocationConfig,
    "recovery": schema.RecoveryConfig,
    "gateway": schema.GatewayConfig,
    "sinks.<name>": schema.SinkConfig,
    "optimization.vllm": schema.VllmOptimization,
    "optimization.deepspeed": schema.DeepspeedOptimization,
    "engines.<name>": schema.EngineConfig,
}


def rows(model: type[BaseModel]) -> list[str]:
    """The table of a section as the document must hold it."""
    told = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            default = ""
        elif field.is_required():
            default = "required"
        elif field.default is None:
            default = "unset"
        elif isinstance(field.default, (dict, list)):
            default = f"`{field.default}`"
        else:
            default = f"`{yaml_scalar(field.default)}`"
        nullable = NoneType in get_args(field.annotation)
        value = expected(field.annotation, field.metadata) or ""
        value += " or null" if nullable else ""
        meaning = " ".join((field.description or "").split())
        assert meaning, f"{model.__name__}.{key} has no description"
        told.append(f"| `{key}` | {value} | {default} | {meaning} |")
    return told


def chapter(heading: str) -> str:
    text = DOCUMENT.read_text("utf-8")
    _, found, rest = text.partition(f"\n## `{heading}`")
    assert found, f"docs/configuration.md has no chapter ## `{heading}`"
    return rest.split("\n## ")[0]


@pytest.mark.parametrize("heading", SECTIONS)
def test_section_is_documented_key_by_key(heading: str) -> None:
    table = "\n".join(rows(SECTIONS[heading]))
    assert table in chapter(heading), f"the table of {heading} has to be:\n{table}"


def test_every_top_level_section_is_documented() -> None:
    text = DOCUMENT.read_text("utf-8")
    for key in schema.Config.model_fields:
        assert f"\n## `{key}" in text, f"docs/configuration.md says nothing about {key}"


def test_the_variables_are_documented() -> None:
    text = DOCUMENT.read_text("utf-8")
    for name in OPTIMIZATION_VARIABLES:
        assert name in text


def test_every_example_is_a_config(load, write, tmp_path: Path, monkeypatch) -> None:
    blocks = DOCUMENT.read_text("utf-8").split("```yaml\n")[1:]
    assert len(blocks) >= 5
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        data = yaml.safe_load(block.split("```")[0])
        known = {key: value for key, value in data.items() if key != "models"}
        models = data.get("models", {"chat": {}})
        for model in models.values():
            model.update(source="model.gguf", engine_options={}, engine="simulated")
        for key in ("plugins", "engines"):
            known.pop(key, None)
        load(write(yaml.safe_dump({"models": models, **known})), environ={"MUAI_KEYS": "k"})
