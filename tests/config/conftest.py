"""A fixed set of plugins, so that config tests do not depend on what is installed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from muai_core.config import LoadedConfig, load_config
from muai_core.model.deployment import Deployment
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Complaint, Engine, Suitability
from muai_core.plugin.loading import PluginRecord, Plugins, load_plugins
from muai_core.plugin.metric_sink import MetricSink
from muai_core.plugin.recovery import RecoveryPolicy


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VllmOptions(Options):
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    enforce_eager: bool = False
    hub_key: SecretStr | None = None
    rope: dict[str, int | str] = Field(default_factory=dict)


class SimulatedDevices(Options):
    profile: str = "H100-80GB"
    count: int = Field(8, ge=1, le=10_000)


class PrometheusOptions(Options):
    host: str = "127.0.0.1"
    port: int = Field(9090, ge=0, le=65535)


class OtelOptions(Options):
    endpoint: str
    interval_s: float = 10.0

    @model_validator(mode="after")
    def _plain_http(self) -> "OtelOptions":
        if not self.endpoint.startswith("http"):
            raise ValueError("the endpoint has to be an http:// or https:// URL")
        return self


class FakeEngine(Engine):
    platforms = ("cpu",)

    def __init__(self, name: str, options: type[BaseModel] | None = None) -> None:
        self.name = name
        self.options = options

    def options_model(self) -> type[BaseModel] | None:
        return self.options

    def suits(self, deployment: Deployment) -> Suitability:
        if deployment.source.endswith(".onnx"):
            return Suitability(False, "ONNX files are for others")
        return Suitability(True, "it is a test")

    def launch(self, request):
        raise NotImplementedError


class Vllm(FakeEngine):
    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        size = deployment.tensor_parallel_size
        if 32 % size == 0:
            return ()
        message = (
            f"{size} is not possible: the model has 32 attention heads; "
            "sizes that divide them: 1, 2, 4, 8, 16, 32"
        )
        return (Complaint("tensor_parallel_size", message),)


class Crashing(FakeEngine):
    def options_model(self) -> type[BaseModel] | None:
        raise RuntimeError("no options today")

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        raise KeyError("heads")


class Strategy(AllocationStrategy):
    name = "balanced"

    def place(self, request, fleet):
        raise NotImplementedError


class Policy(RecoveryPolicy):
    name = "ladder"

    def decide(self, loss, backoff_initial_s, backoff_max_s):
        raise NotImplementedError


class Source(DeviceSource):
    def __init__(self, name: str, options: type[BaseModel] | None, on_by_default: bool) -> None:
        self.name = name
        self.options = options
        self.on_by_default = on_by_default

    def options_model(self) -> type[BaseModel] | None:
        return self.options

    def observe(self, now_s):
        raise NotImplementedError


class Sink(MetricSink):
    def __init__(self, name: str, options: type[BaseModel]) -> None:
        self.name = name
        self.options = options

    def options_model(self) -> type[BaseModel] | None:
        return self.options

    def open(self, options):
        raise NotImplementedError

    def publish(self, families):
        raise NotImplementedError


def fixed_plugins(files: Sequence[Path] = ()) -> Plugins:
    """The fixed parts, one failed plugin, one disabled one, and the local `files`."""
    plugins = load_plugins({}, files, {"MUAI_DISABLE_PLUGINS": "none"})
    plugins.records[:] = [r for r in plugins.records if r.origin.endswith(".py")]
    for table in ("engines", "device_sources", "metric_sinks"):
        getattr(plugins, table).clear()
    local = dict(plugins.allocation_strategies)
    plugins.allocation_strategies.clear()
    plugins.allocation_strategies.update({"balanced": Strategy(), **local})
    plugins.recovery_policies.clear()
    plugins.recovery_policies["ladder"] = Policy()
    for engine in (Vllm("vllm", VllmOptions), FakeEngine("simulated"), Crashing("crashing")):
        plugins.engines[engine.name] = engine
    plugins.device_sources["cpu"] = Source("cpu", None, True)
    plugins.device_sources["simulated"] = Source("simulated", SimulatedDevices, False)
    plugins.metric_sinks["prometheus"] = Sink("prometheus", PrometheusOptions)
    plugins.metric_sinks["otel"] = Sink("otel", OtelOptions)
    plugins.records.append(
        PluginRecord(
            name="deepspeed",
            version="0.1.0",
            origin="muai-deepspeed",
            status="failed",
            reason="ModuleNotFoundError: No module named 'deepspeed_config'",
        )
    )
    plugins.records.append(
        PluginRecord(
            name="nvml",
            version="0.1.0",
            origin="muai-nvml",
            status="disabled",
            reason="by MUAI_DISABLE_PLUGINS",
        )
    )
    return plugins


@pytest.fixture
def load() -> Callable[..., LoadedConfig]:
    """`load_config` with the fixed plugins and an empty environment."""

    def loading(
        path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> LoadedConfig:
        return load_config(path, overrides, environ or {}, load_plugins=fixed_plugins)

    return loading


@pytest.fixture
def plugins() -> Plugins:
    return fixed_plugins()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a config beside a model file called `model.gguf` and returns its path."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    def writing(text: str) -> Path:
        path = tmp_path / "muai.yaml"
        path.write_text(text, "utf-8")
        return path

    return writing
