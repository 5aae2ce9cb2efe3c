"""`engine: auto` and memory needs: what is chosen, and what is said about it."""

from pathlib import Path
from typing import Any

import pytest

from muai_core import Device, builtin
from muai_core.config import ConfigError, load_config
from muai_core.config.estimates import Impossible
from muai_core.config.loaded import LoadedConfig
from muai_core.config.subject import OFFICIAL, missing
from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
from muai_core.plugin.capability import Capability
from muai_core.plugin.engine import Complaint, Engine, LaunchRequest, LaunchSpec, Suitability
from muai_core.plugin.loading import Plugins
from muai_core.runtime.environment import device_environment
from muai_core.runtime.resolution import resolve


class FakeEngine(Engine):
    """Suits everything, unless told otherwise."""

    def __init__(
        self,
        name: str,
        priority: int = 0,
        platforms: tuple[Platform, ...] = ("cpu",),
        refusal: str | None = None,
        complaints: tuple[Complaint, ...] = (),
        memory_bytes: int | None = None,
        capabilities: tuple[Capability, ...] = ("streaming",),
    ) -> None:
        self.name = name
        self.auto_priority = priority
        self.platforms = platforms
        self._refusal = refusal
        self._complaints = complaints
        self._memory_bytes = memory_bytes
        self.capabilities = capabilities

    def suits(self, deployment: Deployment) -> Suitability:
        if self._refusal == "raise":
            raise RuntimeError("cannot read the header")
        return Suitability(self._refusal is None, self._refusal or "reads anything")

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        return self._complaints

    def memory(self, deployment: Deployment, model: ModelDescription | None) -> int | None:
        return self._memory_bytes

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        raise AssertionError("nothing is launched here")


def load(tmp_path: Path, *engines: FakeEngine, **model: Any) -> LoadedConfig:
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    lines = [f"    {key}: {value}" for key, value in model.items()]
    text = "\n".join(["models:", "  chat:", "    source: weights.gguf", *lines]) + "\n"
    (tmp_path / "muai.yaml").write_text(text)

    def plugins(files: Any) -> Plugins:
        loaded = builtin.load(files, {"MUAI_DISABLE_PLUGINS": "all"})
        loaded.engines.update({engine.name: engine for engine in engines})
        return loaded

    return load_config(tmp_path / "muai.yaml", environ={}, load_plugins=plugins)


def test_auto_takes_the_highest_priority_that_suits_and_says_why_not_the_others(
    tmp_path: Path,
) -> None:
    loaded = load(
        tmp_path,
        FakeEngine("plain"),
        FakeEngine("fast", priority=10),
        FakeEngine("picky", priority=20, refusal="reads safetensors only"),
        FakeEngine("big", priority=30, platforms=("cuda",)),
    )
    resolved = resolve(loaded, {"cpu"})
    assert resolved.deployments[0].engine == "fast"
    said = {choice.engine: (choice.chosen, choice.reason) for choice in resolved.choices["chat"]}
    assert said == {
        "big": (False, "runs on cuda; found cpu"),
        "picky": (False, "reads safetensors only"),
        "fast": (True, "auto: reads anything; runs on cpu"),
        "plain": (False, "suits too, but fast ranks higher: reads anything; runs on cpu"),
        **{name: (False, missing(loaded.plugins, "engine", name)) for name in OFFICIAL["engine"]},
    }


def reasons(loaded: LoadedConfig, *platforms: Platform) -> dict[str, str]:
    found = resolve(loaded, platforms or ("cpu",)).choices["chat"]
    return {one.engine: one.reason for one in found}


def test_engines_that_are_not_installed_are_told_with_what_to_do(tmp_path: Path) -> None:
    loaded = load(tmp_path, FakeEngine("plain"))
    loaded.plugins.records.clear()

    told = reasons(loaded)

    assert "pip install ./plugins/muai_transformers" in told["transformers"]
    assert next(iter(told)) == "plain"


def test_auto_passes_over_engines_that_lack_what_the_model_requires(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        FakeEngine("fast", priority=10, capabilities=("streaming", "logprobs")),
        FakeEngine("able", capabilities=("tools", "logprobs")),
        requires="[tools, logprobs]",
    )

    assert resolve(loaded, {"cpu"}).deployments[0].engine == "able"
    assert reasons(loaded)["fast"] == "has no tools, which the model requires"


@pytest.mark.parametrize("size", ["tensor_parallel", "pipeline_parallel"])
def test_auto_passes_over_engines_that_cannot_take_the_shape(tmp_path: Path, size: str) -> None:
    loaded = load(
        tmp_path,
        FakeEngine("fast", priority=10),
        FakeEngine("able", capabilities=("tensor_parallel", "pipeline_parallel")),
        **{f"{size}_size": 2},
    )

    assert resolve(loaded, {"cpu"}).deployments[0].engine == "able"
    assert reasons(loaded)["fast"] == f"has no {size}, which {size}_size 2 needs"


def test_of_equal_engines_the_one_on_the_better_device_is_taken(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        FakeEngine("a_slow_one", platforms=("cpu",)),
        FakeEngine("z_fast_one", platforms=("cuda", "cpu")),
    )

    assert resolve(loaded, {"cpu", "cuda"}).deployments[0].engine == "z_fast_one"
    assert resolve(loaded, {"cpu"}).deployments[0].engine == "a_slow_one"


def test_auto_keeps_to_the_platform_that_the_model_is_bound_to(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        FakeEngine("big", priority=9, platforms=("cuda",)),
        FakeEngine("plain", platforms=("cuda", "cpu")),
        affinity="{platform: cpu}",
    )

    assert resolve(loaded, {"cpu", "cuda"}).deployments[0].engine == "plain"
    assert reasons(loaded, "cpu", "cuda")["big"] == (
        "runs on cuda; found cpu, cuda; affinity.platform is cpu"
    )


def test_a_shape_that_is_impossible_on_one_engine_may_be_possible_on_the_next(
    tmp_path: Path,
) -> None:
    class Limited(FakeEngine):
        def memory(self, deployment: Deployment, model: ModelDescription | None) -> Any:
            raise Impossible(Complaint("pipeline_parallel_size", "2 is not possible: at most 1"))

    able: tuple[Capability, ...] = ("pipeline_parallel",)
    # The check of the file judges shapes, too, but not for the devices that are there.
    limited = Limited("limited", priority=9, capabilities=able)
    loaded = load(
        tmp_path, limited, FakeEngine("free", capabilities=able), pipeline_parallel_size=2
    )

    assert resolve(loaded, {"cpu"}).deployments[0].engine == "free"
    assert reasons(loaded)["limited"] == "pipeline_parallel_size: 2 is not possible: at most 1"


def test_an_engine_that_is_named_must_have_what_the_model_requires(tmp_path: Path) -> None:
    engines = (FakeEngine("plain"), FakeEngine("able", capabilities=("tools", "json_mode")))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *engines, engine="plain", requires="[tools, streaming, json_mode]")
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == ("models.chat.requires", 5)
    assert problem.message.startswith("the engine plain has no tools, json_mode; no installed")

    with pytest.raises(ConfigError, match="has no tools; able has it"):
        load(tmp_path, *engines, engine="plain", requires="[tools]")
    named = load(tmp_path, *engines, engine="able", requires="[tools]")
    assert resolve(named, {"cpu"}).deployments[0].engine == "able"


def test_an_engine_that_raises_or_complains_is_passed_over(tmp_path: Path) -> None:
    complaint = Complaint("tensor_parallel_size", "3 is not possible: 1 or 2")
    loaded = load(
        tmp_path,
        FakeEngine("raising", priority=2, refusal="raise"),
        FakeEngine("narrow", priority=1, complaints=(complaint,)),
        FakeEngine("plain"),
    )
    told = reasons(loaded)
    assert told["raising"] == "failed to answer: RuntimeError: cannot read the header"
    assert told["narrow"] == "tensor_parallel_size: 3 is not possible: 1 or 2"
    assert told["plain"].startswith("auto: ")


def test_no_suitable_engine_is_a_config_error_with_every_reason(tmp_path: Path) -> None:
    loaded = load(tmp_path, FakeEngine("big", platforms=("cuda",)))
    with pytest.raises(ConfigError) as caught:
        resolve(loaded, {"cpu"})
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == ("models.chat.engine", 2)
    assert "big: runs on cuda; found cpu" in problem.message


def test_the_configs_memory_is_stronger_than_the_engines(tmp_path: Path) -> None:
    engine = FakeEngine("plain", memory_bytes=5)
    assert resolve(load(tmp_path, engine), {"cpu"}).deployments[0].memory_bytes_per_device == 5
    named = load(tmp_path, engine, memory_gib=2)
    assert resolve(named, {"cpu"}).deployments[0].memory_bytes_per_device == 2 * 1024**3


def test_the_need_for_memory_is_asked_for_the_platform_that_is_there(tmp_path: Path) -> None:
    class Sized(FakeEngine):
        def memory(self, deployment: Deployment, model: ModelDescription | None) -> int:
            return {"cuda": 2, "cpu": 4}[deployment.platforms[0]]

    engine = Sized("sized", platforms=("cuda", "cpu"))
    loaded = load(tmp_path, engine)
    assert resolve(loaded, {"cpu"}).deployments[0].memory_bytes_per_device == 4
    both = resolve(loaded, {"cpu", "cuda"}).deployments[0]
    assert (both.memory_bytes_per_device, both.platforms) == (2, ("cuda", "cpu"))
    chosen = load(tmp_path, engine, affinity="{platform: cpu}")
    assert resolve(chosen, {"cpu", "cuda"}).deployments[0].memory_bytes_per_device == 4


def test_processes_see_their_devices_by_uuid_in_rank_order_and_no_others() -> None:
    def device(uuid: str, platform: Platform) -> Device:
        return Device(
            uuid=uuid,
            node="n",
            index=0,
            kind="gpu",
            platform=platform,
            name="x",
            memory_total_bytes=1,
        )

    gpus = (device("GPU-b", "cuda"), device("GPU-a", "cuda"))
    assert device_environment(gpus) == {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}
    assert device_environment((device("CPU-n", "cpu"),)) == {"CUDA_VISIBLE_DEVICES": ""}
