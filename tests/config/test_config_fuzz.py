"""Whatever the file, the variables and the settings hold: a config or a ConfigError."""

from pathlib import Path

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from muai_core.config import ConfigError, LoadedConfig
from muai_core.config.rendering import render_json, render_yaml

KEYS = st.sampled_from(
    [
        "models",
        "devices",
        "allocation",
        "recovery",
        "gateway",
        "sinks",
        "plugins",
        "optimization",
        "engines",
        "chat",
        "source",
        "engine",
        "replicas",
        "affinity",
        "nodes",
        "platform",
        "max_model_len",
        "dtype",
        "memory_gib",
        "engine_options",
        "tensor_parallel_size",
        "sources",
        "strategy",
        "options",
        "policy",
        "backoff_initial_s",
        "host",
        "port",
        "api_keys_file",
        "api_keys_env",
        "prometheus",
        "otel",
        "endpoint",
        "enabled",
        "vllm",
        "simulated",
        "deepspeed",
        "python",
        "env",
        "tensor_parallel",
        "pipeline_parallel",
        "count",
        "<<",
        "rope",
        "hub_key",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["auto", "vllm", "simulated", "model.gguf", "~", "~nobody/x", "/", ".", "..", "0.0.0.0"]
    ),
    st.text(max_size=20),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=8)), inner, max_size=5),
    ),
    max_leaves=25,
)
CONFIGS = st.fixed_dictionaries(
    {"models": st.one_of(TREES, st.dictionaries(st.text(max_size=5), TREES, max_size=2))},
    optional=dict.fromkeys(
        [
            "devices",
            "allocation",
            "recovery",
            "gateway",
            "sinks",
            "plugins",
            "optimization",
            "engines",
        ],
        TREES,
    ),
)
SLOW_FIXTURES = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _load(load, path: Path, overrides=(), environ=None) -> LoadedConfig | None:
    try:
        return load(path, overrides, environ)
    except ConfigError as error:
        refused = error
    told = str(refused)
    assert refused.errors
    assert all(c.isprintable() or c == "\n" for c in told)
    assert told.endswith("nothing was started.")
    assert all(p.file is not None or p.to_json()["override"] for p in refused.problems)
    return None


@SLOW_FIXTURES
@given(st.binary(max_size=300))
@example(b"\xff\xfe")
@example(b'"\\UFFFFFFFF"')
@example(b'"\\ud800": "\\ud800"')
@example(b"? a\n? b")
@example(b"%YAML 9.9\n---\na: 1")
@example(b"%TAG ! tag:x,2000:\n---\n!a b")
@example(b"&a : *a")
@example(b"a: !!binary x\nb: !!set {}\nc: !!timestamp 1\nd: !!int x\n")
def test_any_bytes(load, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "muai.yaml"
    path.write_bytes(data)
    _load(load, path)


YAML_PIECES = st.lists(
    st.sampled_from(
        [*"-:?,[]{}#&*!|>'\"%@`\\ \n\t~", "a", "models", "<<", ": ", "- ", "\n  ", "...", "---"]
    ),
    max_size=40,
).map("".join)


@SLOW_FIXTURES
@given(YAML_PIECES)
def test_any_yaml_like_text(load, tmp_path: Path, text: str) -> None:
    path = tmp_path / "muai.yaml"
    path.write_text("models:\n  " + text, "utf-8")
    _load(load, path)


@SLOW_FIXTURES
@given(CONFIGS)
def test_any_tree(load, tmp_path: Path, data: dict) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    path = tmp_path / "muai.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=False), "utf-8")
    loaded = _load(load, path)
    if loaded is not None:
        render_yaml(loaded)
        render_json(loaded)


@SLOW_FIXTURES
@given(
    st.lists(st.text(max_size=30), max_size=3),
    st.dictionaries(
        st.text(max_size=15).map(lambda t: "MUAI__" + t.upper()),
        st.text(max_size=20),
        max_size=3,
    ),
)
@example(["models..chat=1", '"=1', "models.chat.source", "a" * 70 + "=["], {"MUAI__A__": "x"})
@example(["models=3", "models.chat.replicas=1"], {"MUAI__MODELS": "[", "MUAI__\udcff": "\udcff"})
@example(["plugins=[" + "[" * 50], {"MUAI__X": "x" * 100_000})
def test_any_override(load, write, overrides: list[str], environ: dict[str, str]) -> None:
    _load(load, write("models: {chat: {source: model.gguf}}\n"), overrides, environ)
