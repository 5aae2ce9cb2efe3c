"""The plugin's options: every mistake is refused, what is right survives a round trip."""

import re
from importlib.metadata import entry_points
from typing import Any

import pytest
from muai_simulated.config import DeviceOptions, EngineOptions
from pydantic import BaseModel, ValidationError

from muai_core.plugin.loading import load_plugins


def test_the_plugin_registers_both_parts() -> None:
    plugins = load_plugins({})
    (record,) = [record for record in plugins.records if record.name == "simulated"]
    assert record.status == "ok", record.reason
    assert record.registers == (("device source", "simulated"), ("engine", "simulated"))
    assert not plugins.device_sources["simulated"].on_by_default
    assert plugins.device_sources["simulated"].options_model() is DeviceOptions
    assert plugins.engines["simulated"].options_model() is EngineOptions
    assert "simulated" in entry_points(group="muai").names


@pytest.mark.parametrize(
    ("model", "options", "place", "message"),
    [
        (DeviceOptions, {"gpu": 8}, "gpu", "Extra inputs are not permitted"),
        (DeviceOptions, {"gpus": 0}, "gpus", "greater than or equal to 1"),
        (DeviceOptions, {"gpus": "8"}, "gpus", "valid integer"),
        (DeviceOptions, {"profile": "B100"}, "profile", "'B200-180GB', 'H200-141GB', 'H100-80GB'"),
        (DeviceOptions, {"node": "a/b"}, "node", "should match pattern"),
        (DeviceOptions, {"groups": []}, "groups", "at least 1 item"),
        (DeviceOptions, {"gpus": 2, "groups": [{}]}, "groups", "gpus cannot stand beside groups"),
        (
            DeviceOptions,
            {"profile": "L40S-48GB", "island_size": 2},
            "island_size",
            "the L40S-48GB has no NVLink",
        ),
        (
            DeviceOptions,
            {"groups": [{"profile": "RTX-4090-24GB", "foreign_memory_gib": 25}]},
            "groups.0.foreign_memory_gib",
            "25 is not possible: the RTX-4090-24GB has 24.0 GiB",
        ),
        (EngineOptions, {"load": 1}, "load", "Extra inputs are not permitted"),
        (EngineOptions, {"load_s": -1}, "load_s", "greater than or equal to 0"),
        (EngineOptions, {"tokens_per_second": 0}, "tokens_per_second", "greater than 0"),
        (EngineOptions, {"faults": {"hang": 1}}, "faults.hang", "Extra inputs are not permitted"),
        (EngineOptions, {"faults": {"exit_status": 256}}, "faults.exit_status", "less than or"),
        (EngineOptions, {"faults": {"exit_signal": "TERM"}}, "faults.exit_signal", "'SIGKILL'"),
        (EngineOptions, {"faults": {"only_epochs": [0]}}, "faults.only_epochs.0", "greater than"),
    ],
)
def test_mistakes_are_refused_at_their_place(
    model: type[BaseModel], options: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)) as error:
        model.model_validate(options)
    assert [".".join(map(str, e["loc"])) for e in error.value.errors()] == [place]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (DeviceOptions, {}),
        (DeviceOptions, {"gpus": 4, "profile": "A100-80GB", "foreign_memory_gib": 1.5}),
        (DeviceOptions, {"groups": [{"gpus": 4}, {"profile": "L40S-48GB", "node": "b"}]}),
        (EngineOptions, {"faults": {"exit_after_requests": 5, "first_epoch_only": True}}),
    ],
)
def test_completed_options_validate_again(model: type[BaseModel], options: dict[str, Any]) -> None:
    completed = model.model_validate(options)
    assert model.model_validate(completed.model_dump()) == completed


def test_every_option_is_described_for_editors() -> None:
    for model in (DeviceOptions, EngineOptions):
        schema = model.model_json_schema()
        for part in (schema, *schema["$defs"].values()):
            for name, field in part["properties"].items():
                assert field.get("description"), name
