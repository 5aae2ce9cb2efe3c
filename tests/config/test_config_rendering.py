"""`muai config` and `muai schema`: what they print is true, complete and free of secrets."""

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muai_core.config import ConfigError, Origin, load_config
from muai_core.config.json_schema import json_schema
from muai_core.config.loaded import effective
from muai_core.config.rendering import render_json, render_yaml, shown, yaml_scalar
from muai_core.config.tree import leaves
from muai_core.config.yaml_text import parse_yaml

FULL = """\
models:
  chat:
    source: model.gguf
    engine: vllm
    replicas: 2
    affinity: {devices: [0, GPU-1], nodes: [n1], platform: cuda}
    max_model_len: 4096
    dtype: bfloat16
    memory_gib: 10.5
    engine_options:
      hub_key: hunter2
      rope: {"on": 1, "1": two}
  "llama-3.1":
    source: model.gguf
devices: {sources: [cpu, simulated], observe_interval_s: 1, simulated: {count: 4}}
allocation: {strategy: balanced}
recovery: {backoff_initial_s: 0.5}
gateway: {host: 0.0.0.0, api_keys_env: KEYS, retries: 0}
sinks:
  prometheus: {port: 9191}
  otel: {endpoint: "https://user:hunter2@collector:4318"}
optimization:
  vllm: {enabled: true, tensor_parallel_size: 2}
  deepspeed: {enabled: true, tensor_parallel: 2, pipeline_parallel: 2}
engines:
  vllm: {env: {DB_URL: hunter2, HF_TOKEN: hunter2}}
"""
ENVIRON = {"KEYS": "hunter2", "MUAI__GATEWAY__PORT": "8010"}
GOLDEN = Path(__file__).parent / "golden"


def test_effective_config_as_yaml_names_every_origin(load, write) -> None:
    path = write(FULL)
    told = render_yaml(load(path, ["gateway.retry_wait_s=5"], ENVIRON))
    lines = {line.split("  #")[0].strip(): line.split("  # ")[-1] for line in told.splitlines()[1:]}
    assert lines["dtype: bfloat16"] == f"{path}:8"
    assert lines["port: 8010"] == "MUAI__GATEWAY__PORT"
    assert lines["retry_wait_s: 5.0"] == "--set gateway.retry_wait_s"
    assert lines["connect_timeout_s: 2.0"] == "default"
    assert f"# optimization.vllm.tensor_parallel_size ({path}:23)\n" in told


def test_no_secret_is_printed(load, write) -> None:
    loaded = load(write(FULL), (), ENVIRON)
    for told in (render_yaml(loaded), json.dumps(render_json(loaded))):
        assert "hunter2" not in told
        assert "https://***@collector:4318" in told


def test_secrets_are_not_in_errors_either(load, write) -> None:
    text = FULL.replace("hub_key: hunter2", "hub_key: [hunter2]").replace(
        "{DB_URL: hunter2, HF_TOKEN: hunter2}", "{DB_URL: 4711}"
    )
    text = text.replace("retries: 0", "retries: 0, api_key: hunter2, token: hunter2")
    with pytest.raises(ConfigError) as raised:
        load(write(text), (), ENVIRON)
    assert len(raised.value.problems) == 4
    assert "hunter2" not in str(raised.value)
    assert "4711" not in str(raised.value)


def test_effective_config_reads_back_as_itself(load, write) -> None:
    loaded = load(write(FULL), (), ENVIRON)
    told = render_yaml(loaded)
    expected = shown(loaded, effective(loaded), ())
    assert parse_yaml(told, lambda line: Origin("file", "f", line)).plain() == expected
    assert yaml.safe_load(told) == expected


def test_effective_config_is_a_config(load, write) -> None:
    first = load(write(FULL.replace("hub_key: hunter2", "")), (), ENVIRON)
    again = load(write(render_yaml(first).replace("***@", "")), (), ENVIRON)
    assert again.config.models == first.config.models
    assert again.config.gateway == first.config.gateway


def test_json_form_has_an_origin_for_every_value(load, write) -> None:
    told = render_json(load(write(FULL), (), ENVIRON))
    assert set(told) == {"file", "config", "provenance"}
    assert len(told["provenance"]) == len(list(leaves(told["config"])))
    assert told["provenance"]["gateway.port"] == {
        "kind": "env",
        "name": "MUAI__GATEWAY__PORT",
        "line": None,
    }
    assert told["provenance"]['models."llama-3.1".source']["line"] == 14


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**17), 10**17), st.floats(allow_nan=False),
        st.text(), st.sampled_from(["yes", "on", "1:30", "0o7", "<<", "- a", "a: b", "#x", ""]),
    )
)  # fmt: skip
def test_every_yaml_reader_understands_scalars_alike(value: object) -> None:
    text = yaml_scalar(value)
    assert text.isprintable()
    assert yaml.safe_load(f"k: {text}  # comment") == {"k": value}
    assert parse_yaml(f"k: {text}  # comment", lambda n: Origin("file", "f", n)).plain() == {
        "k": value
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_one_changed_value_is_an_error_there_or_a_config(load, write, data) -> None:
    tree = yaml.safe_load(FULL)
    path, _ = data.draw(st.sampled_from(list(leaves(tree))))
    place = tree
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = data.draw(
        st.sampled_from([None, True, 0, 1, -1, 3, 2.5, "", "x", "auto", [], [1], {}, {"a": 1}])
    )
    try:
        loaded = load(write(yaml.safe_dump(tree)), (), ENVIRON)
    except ConfigError as error:
        problems = error.problems
    else:
        assert yaml.safe_load(render_yaml(loaded)) == shown(loaded, effective(loaded), ())
        return
    sections = {str(path[0])} | ({"models"} if path[0] == "optimization" else set())
    assert {problem.path.split(".")[0] for problem in problems} <= sections


@pytest.mark.parametrize("text", [FULL, "models: {a: {source: x}}\nsinks: {prometheus: }\n"])
def test_schema_accepts_what_loads(plugins, text: str) -> None:
    schema = json_schema(plugins)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(text), schema)


@pytest.mark.parametrize(
    "case",
    [
        "unknown_option_near",
        "unknown_section_near",
        "type_bool_yes",
        "type_number_as_text",
        "range_port",
        "engine_unknown_near",
        "engine_options",
        "engine_options_none",
        "strategy_unknown",
        "strategy_options",
        "policy_unknown",
        "sink_unknown",
        "sink_options",
        "device_source_unknown",
        "device_source_options",
        "model_name_characters",
        "optimization_wrong_words",
        "engines_unknown",
        "dtype_unknown",
        "source_missing",
        "models_missing",
    ],
)
def test_schema_refuses_what_an_editor_can_see(plugins, case: str) -> None:
    text = (GOLDEN / f"{case}.yaml").read_text().replace("yes}", "'yes'}")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), json_schema(plugins))


def test_schema_of_the_installed_plugins_accepts_the_examples() -> None:
    from muai_core import builtin

    schema = json_schema(builtin.load(environ={}))
    examples = list((Path(__file__).parents[2] / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_the_examples_are_without_a_mistake(tmp_path: Path) -> None:
    from muai_core import builtin

    root = Path(__file__).parents[2]
    examples = Path(shutil.copytree(root / "examples", tmp_path / "examples"))
    # Two more things that people make first: an unpacked model, and vLLM's own environment.
    model = tmp_path / ".cache" / "smollm2"
    model.mkdir(parents=True)
    shutil.copy(examples / "models" / "llama-3.1-8b.json", model / "config.json")
    (tmp_path / ".venv-vllm").symlink_to(root / ".venv-vllm")
    for path in sorted(examples.glob("*.yaml")):
        if "vllm" in path.read_text(encoding="utf-8") and not (tmp_path / ".venv-vllm").exists():
            assert "CI" not in os.environ, "make setup-test installs vLLM"
            continue
        loaded = load_config(path, (), {}, load_plugins=builtin.load)
        assert loaded.config.models, path
