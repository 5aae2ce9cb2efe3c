"""What a good config becomes: YAML rules, overrides and their strength, origins, completion."""

from pathlib import Path

import pytest
from msgspec.structs import fields

from muai_core.config import ConfigError, load_config
from muai_core.config.errors import Origin
from muai_core.config.loaded import GIB
from muai_core.config.schema import GatewayConfig
from muai_core.config.subject import OFFICIAL
from muai_core.config.yaml_text import core_schema, parse_yaml
from muai_core.gateway.settings import GatewaySettings
from muai_core.plugin.loading import Plugins

MINIMAL = "models:\n  chat:\n    source: model.gguf\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("Off", "Off"),
        ("true", True),
        ("FALSE", False),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.INF", float("-inf")),
        ("~", None),
        ("", None),
        ("null", None),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert core_schema(text) == value
    assert type(core_schema(text)) is type(value)


def test_quotes_and_tags_make_text() -> None:
    tree = parse_yaml(
        "[\"1\", '2', !!str 3, ! 4, !!float 5]", lambda line: Origin("file", "f", line)
    )
    assert tree.plain() == ["1", "2", "3", "4", 5.0]


def test_defaults_are_filled_in(load, write) -> None:
    loaded = load(write(MINIMAL))
    chat = loaded.config.models["chat"]
    assert (chat.engine, chat.replicas, chat.dtype) == ("auto", 1, "auto")
    assert chat.tensor_parallel_size is None
    assert (loaded.config.gateway.host, loaded.config.gateway.port) == ("127.0.0.1", 8000)
    assert loaded.config.recovery.policy == "ladder"
    assert loaded.device_source_options() == {"cpu": {}}
    assert loaded.sink_options() == {}
    assert loaded.source_text("chat") == str(loaded.folder / "model.gguf")
    assert loaded.sources["chat"].kind == "file"


def test_sections_with_nothing_behind_them_are_empty(load, write) -> None:
    loaded = load(
        write(MINIMAL + "gateway:\nrecovery:\nsinks:\n  prometheus:\nplugins:\nengines:\n")
    )
    assert loaded.config.gateway.port == 8000
    assert loaded.sink_options() == {"prometheus": {"host": "127.0.0.1", "port": 9090}}


def test_merge_keys_and_aliases(load, write) -> None:
    loaded = load(
        write(
            "models:\n"
            "  a: &base {source: model.gguf, replicas: 2, dtype: float32}\n"
            "  b:\n    <<: *base\n    replicas: 3\n"
            "  c: *base\n"
        ),
        ["models.c.replicas=5"],
    )
    models = loaded.config.models
    assert [models[name].replicas for name in "abc"] == [2, 3, 5]
    assert models["b"].dtype == "float32"
    assert loaded.origin(("models", "b", "dtype")).line == 2
    assert loaded.origin(("models", "b", "replicas")).line == 5


def test_strength_default_file_variable_set(load, write) -> None:
    path = write(MINIMAL + "gateway: {port: 1001, retries: 1}\n")
    variable = {"MUAI__GATEWAY__PORT": "1002", "MUAI__GATEWAY__RETRIES": "2"}
    gateway = load(path, ["gateway.port=1003"], variable).config.gateway
    assert (gateway.port, gateway.retries, gateway.max_concurrent_requests) == (1003, 2, 4096)


def test_the_last_set_wins(load, write) -> None:
    loaded = load(write(MINIMAL), ["gateway.port=1", "gateway.port=2"])
    assert loaded.config.gateway.port == 2


def test_variables_match_keys_without_regard_to_case(load, write) -> None:
    path = write("models:\n  Llama-3.1-8B: {source: model.gguf, affinity: }\n")
    loaded = load(
        path,
        environ={
            "MUAI__MODELS__LLAMA_3_1_8B__REPLICAS": "4",
            "MUAI__MODELS__LLAMA_3_1_8B__AFFINITY__DEVICES": "[0, GPU-1]",
            "MUAI__ENGINES__VLLM__ENV__OMP_NUM_THREADS": '"2"',
            "MUAI__SINKS__PROMETHEUS": "{port: 9191}",
            "MUAI__GATEWAY__PORT": "",
            "MUAI_RUN_DIR": "/nowhere",
            "MUAI_DISABLE_PLUGINS": "none",
        },
    )
    model = loaded.config.models["Llama-3.1-8B"]
    assert model.replicas == 4
    assert model.affinity.devices == ["0", "GPU-1"]
    assert loaded.config.engines["vllm"].env == {"OMP_NUM_THREADS": "2"}
    assert loaded.sink_options()["prometheus"]["port"] == 9191
    assert loaded.config.gateway.port == 8000


def test_set_understands_dots_in_names(load, write) -> None:
    path = write("models:\n  llama-3.1-8b: {source: model.gguf}\n")
    loaded = load(
        path, ["models.llama-3.1-8b.replicas=2", 'models."qwen-2.5"={source: model.gguf}']
    )
    assert {n: m.replicas for n, m in loaded.config.models.items()} == {
        "llama-3.1-8b": 2,
        "qwen-2.5": 1,
    }


def test_optimization_is_the_engines_default(load, write) -> None:
    path = write(
        "models:\n"
        "  a: {source: model.gguf, engine: vllm}\n"
        "  b: {source: model.gguf, engine: vllm, tensor_parallel_size: 4}\n"
        "  c: {source: model.gguf, engine: simulated}\n"
        "optimization:\n"
        "  vllm: {enabled: true, tensor_parallel_size: 2}\n"
        "  deepspeed: {enabled: true, tensor_parallel: 2, pipeline_parallel: 2}\n"
    )
    loaded = load(path)
    sizes = {n: m.tensor_parallel_size for n, m in loaded.config.models.items()}
    assert sizes == {"a": 2, "b": 4, "c": None}
    origin = loaded.origin(("models", "a", "tensor_parallel_size"))
    assert str(origin) == f"optimization.vllm.tensor_parallel_size ({path}:6)"
    assert loaded.origin(("models", "b", "tensor_parallel_size")).line == 3


def test_the_three_variables_of_optimization(load, write) -> None:
    loaded = load(
        write(MINIMAL),
        environ={
            "MUAI_OPT_VLLM_TENSOR_PARALLEL": "4",
            "MUAI_OPT_DEEPSPEED_TENSOR_PARALLEL": "2",
            "MUAI_OPT_DEEPSPEED_PIPELINE_PARALLEL": "3",
        },
    )
    optimization = loaded.config.optimization
    assert optimization.vllm.tensor_parallel_size == 4
    assert optimization.deepspeed.tensor_parallel == 2
    assert optimization.deepspeed.pipeline_parallel == 3
    assert str(loaded.origin(("optimization", "vllm", "tensor_parallel_size"))) == (
        "MUAI_OPT_VLLM_TENSOR_PARALLEL"
    )


def test_auto_takes_the_chosen_engines_default(load, write) -> None:
    text = MINIMAL + "    memory_gib: 1.5\noptimization: {vllm: {tensor_parallel_size: 8}}\n"
    loaded = load(write(text))
    engine = loaded.plugins.engines["vllm"]
    deployment = loaded.deployment("chat", "vllm", engine)
    assert deployment.tensor_parallel_size == 8
    assert deployment.pipeline_parallel_size == 1
    assert deployment.memory_bytes_per_device == int(1.5 * GIB)
    other = loaded.deployment("chat", "simulated", loaded.plugins.engines["simulated"])
    assert other.tensor_parallel_size == 1


def test_plugin_options_are_completed_by_their_plugin(load, write) -> None:
    loaded = load(
        write(
            "models:\n"
            "  chat:\n"
            "    source: model.gguf\n"
            "    engine: vllm\n"
            "    engine_options: {enforce_eager: true, hub_key: hunter2}\n"
            "devices: {simulated: {count: 2}}\n"
            "sinks: {prometheus: {enabled: false}, otel: {endpoint: 'http://x'}}\n"
        )
    )
    assert loaded.config.models["chat"].engine_options == {
        "gpu_memory_utilization": 0.9,
        "enforce_eager": True,
        "hub_key": "hunter2",
        "rope": {},
    }
    assert loaded.device_source_options() == {
        "cpu": {},
        "simulated": {"profile": "H100-80GB", "count": 2},
    }
    assert loaded.sink_options() == {"otel": {"endpoint": "http://x", "interval_s": 10.0}}


def test_listed_device_sources_are_the_only_ones(load, write) -> None:
    loaded = load(write(MINIMAL + "devices: {sources: [simulated]}\n"))
    assert loaded.device_source_options() == {
        "simulated": {"profile": "H100-80GB", "count": 8},
    }


def test_options_of_a_source_that_does_not_run_are_a_warning(load, write) -> None:
    [warning] = load(write(MINIMAL + "devices:\n  sources: [cpu]\n  simulated: {}\n")).warnings
    assert (warning.path, warning.line) == ("devices.simulated", 6)


def test_local_plugin_registers_a_strategy(load, write, tmp_path: Path) -> None:
    (tmp_path / "spread.py").write_text(
        "from muai_core.plugin.allocation import AllocationStrategy\n"
        "from muai_core.plugin.hookspecs import hookimpl\n"
        "class Spread(AllocationStrategy):\n"
        "    name = 'spread'\n"
        "    def place(self, request, fleet): ...\n"
        "@hookimpl\n"
        "def muai_allocation_strategies():\n"
        "    return [Spread()]\n"
    )
    loaded = load(write(MINIMAL + "plugins: [spread.py]\nallocation: {strategy: spread}\n"))
    assert loaded.config.allocation.strategy == "spread"


def test_key_file_that_everybody_reads_is_a_warning(load, write, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("# ours\nsk-1\n")
    keys.chmod(0o644)
    path = write(MINIMAL + "gateway:\n  host: 0.0.0.0\n  api_keys_file: keys.txt\n")
    [warning] = load(path).warnings
    assert (warning.severity, warning.path, warning.line) == ("warning", "gateway.api_keys_file", 6)
    assert "sk-1" not in warning.text()
    keys.chmod(0o600)
    assert load(path).warnings == ()


def test_keys_from_the_environment_open_the_gateway(load, write) -> None:
    path = write(MINIMAL + "gateway: {host: '::', api_keys_env: KEYS}\n")
    assert load(path, environ={"KEYS": "a,b"}).config.gateway.host == "::"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_keys(load, write, host: str) -> None:
    assert load(write(MINIMAL + f"gateway: {{host: '{host}'}}\n")).warnings == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", "localhost.evil"])
def test_beyond_loopback_needs_keys_or_a_word(load, write, host: str) -> None:
    with pytest.raises(ConfigError, match="reachable from other machines"):
        load(write(MINIMAL + f"gateway: {{host: '{host}'}}\n"))
    opened = f"gateway: {{host: '{host}', allow_unauthenticated: true}}\n"
    assert load(write(MINIMAL + opened)).config.gateway.allow_unauthenticated


def test_gateway_section_is_what_the_gateway_takes() -> None:
    """The gateway has settings of its own, so that it can be used without a config file."""
    of_config = {key: field.default for key, field in GatewayConfig.model_fields.items()}
    of_gateway = {field.name: field.default for field in fields(GatewaySettings)}
    assert of_config == of_gateway


@pytest.mark.parametrize(
    ("content", "complaint"), [("# none\n\n", "holds no key"), ("ab cd\n", "a key with a space")]
)
def test_key_file_has_to_hold_usable_keys(
    load, write, tmp_path: Path, content: str, complaint: str
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(content)
    keys.chmod(0o600)
    with pytest.raises(ConfigError, match=complaint) as raised:
        load(write(MINIMAL + "gateway: {api_keys_file: keys.txt}\n"))
    assert "ab cd" not in str(raised.value)


def test_two_listeners_on_one_port_need_two_addresses(load, write) -> None:
    two = "gateway: {{port: 9090}}\nsinks: {{prometheus: {{host: {host}}}}}\n"
    load(write(MINIMAL + two.format(host="10.0.0.1")))
    with pytest.raises(ConfigError, match="port 9090 is taken"):
        load(write(MINIMAL + two.format(host="0.0.0.0")))


def test_engine_interpreter_keeps_its_link(load, write, tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.symlink_to("/bin/sh")
    loaded = load(write(MINIMAL + "engines: {vllm: {python: venv/bin/python}}\n"))
    assert loaded.python_for("vllm") == str(python)
    assert loaded.python_for("simulated") is None


def test_package_source_is_found_without_importing_it(
    load, write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights_of_ours" / "deep"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "w.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load(write("models: {a: {source: 'package:weights_of_ours.deep/w.gguf'}}\n"))
    assert loaded.sources["a"].path == folder / "w.gguf"


def test_engines_own_scheme_is_left_to_the_engine(load, write) -> None:
    loaded = load(write("models: {a: {source: 'simulated:70b', engine: simulated}}\n"))
    assert loaded.sources == {}
    assert loaded.source_text("a") == "simulated:70b"


@pytest.mark.parametrize(
    "name", ["gpt-4o", "meta-llama/Llama-3.1-8B", "ft:gpt:org", "7b", "on", "null", "a@1", "x+y"]
)
def test_model_names_are_what_openai_clients_send(load, write, name: str) -> None:
    assert list(load(write(f"models: {{{name}: {{source: model.gguf}}}}\n")).config.models) == [
        name
    ]


def test_nothing_is_loaded_when_the_file_is_broken(write) -> None:
    def never(files: object) -> Plugins:
        raise AssertionError("plugins were loaded")

    with pytest.raises(ConfigError):
        load_config(write("models: ["), (), {}, load_plugins=never)


def test_what_the_config_says_to_install_is_what_the_repository_has() -> None:
    manifests = (Path(__file__).parents[2] / "plugins").glob("muai_*/pyproject.toml")
    there = {
        manifest.parent.name.removeprefix("muai_")
        for manifest in manifests
        if "[project.entry-points.muai]" in manifest.read_text()  # muai_torch is a library
    }
    assert {name for names in OFFICIAL.values() for name in names} == there


def test_parts_that_are_not_installed_say_how_to_install_them(write, plugins: Plugins) -> None:
    plugins.records.clear()
    plugins.metric_sinks.clear()
    text = "devices: {sources: [nvml], nvml: {deadline_s: 2}}\nsinks: {otel: {}}\n" + MINIMAL
    with pytest.raises(ConfigError) as raised:
        load_config(write(text), (), {}, load_plugins=lambda files: plugins)
    how = "is not installed; in MuAI's repository: pip install ./plugins/muai_"
    assert {(problem.path, problem.message) for problem in raised.value.problems} == {
        ("devices.sources[0]", f"the device source nvml {how}nvml"),
        ("devices.nvml", f"the device source nvml {how}nvml"),
        ("sinks.otel", f"the sink otel {how}otel"),
    }
