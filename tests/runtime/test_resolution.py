"""`engine: auto` and memory needs: what is chosen, and what is said about it."""

from pathlib import Path
from typing import Any

import pytest

from muai_core import Device, builtin
from muai_core.config import ConfigError, load_config
from muai_core.config.loaded import LoadedConfig
from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
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
    ) -> None:
        self.name = name
        self.auto_priority = priority
        self.platforms = platforms
        self._refusal = refusal
        self._complaints = complaints
        self._memory_bytes = memory_bytes

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
        "plain": (False, "suits too, but has a lower priority"),
    }


def test_an_engine_that_raises_or_complains_is_passed_over(tmp_path: Path) -> None:
    complaint = Complaint("tensor_parallel_size", "3 is not possible: 1 or 2")
    loaded = load(
        tmp_path,
        FakeEngine("raising", priority=2, refusal="raise"),
        FakeEngine("narrow", priority=1, complaints=(complaint,)),
        FakeEngine("plain"),
    )
    reasons = {one.engine: one.reason for one in resolve(loaded, {"cpu"}).choices["chat"]}
    assert reasons["raising"] == "failed to answer: RuntimeError: cannot read the header"
    assert reasons["narrow"] == "tensor_parallel_size: 3 is not possible: 1 or 2"
    assert reasons["plain"].startswith("auto: ")


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
