"""Engines from Python: real processes; the simulated engine stands in for the heavy ones."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from muai_core.api import (
    AllocationError,
    DeepSpeedConfig,
    DeepSpeedEngine,
    EngineError,
    GPUManager,
    ServedEngine,
    VLLMConfig,
    VLLMEngine,
)
from muai_core.config import ConfigError

STAND_IN = Path(__file__).parent / "plugins" / "stand_in_engines.py"
OPTIONS = {"memory_gib": 1, "load_s": 0}


@pytest.fixture(autouse=True)
def _stand_ins_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUAI_DISABLE_PLUGINS", "vllm,deepspeed")


def machine(gpus: int, *, cpu: bool = True) -> dict[str, Any]:
    """The section `devices` of a node with so many simulated GPUs."""
    sources = (["simulated"] if gpus else []) + (["cpu"] if cpu else [])
    simulated = {"simulated": {"gpus": gpus, "profile": "A100-80GB"}} if gpus else {}
    return {"sources": sources, **simulated}


def deepspeed(gpus: int, *, cpu: bool = True, **wanted: Any) -> DeepSpeedEngine:
    config = DeepSpeedConfig(**{"options": OPTIONS, **wanted})
    return DeepSpeedEngine(config, devices=machine(gpus, cpu=cpu), plugins=[STAND_IN])


def processes_of(engine: ServedEngine[Any]) -> list[psutil.Process]:
    """The private controller and all that it started."""
    assert engine._loaded is not None
    controller = psutil.Process(engine._loaded.controller.pid)
    return [controller, *controller.children(recursive=True)]


def test_tensor_parallelism_gets_the_gpus_asked_for_and_answers() -> None:
    config = VLLMConfig(tensor_parallel_size=2, options=OPTIONS)
    engine = VLLMEngine(config, devices=machine(4), plugins=[STAND_IN])
    assert engine.get_allocated_gpus() == []
    allocation = engine.load_model("vllm:tiny")
    try:
        assert engine.get_allocated_gpus() == [0, 1]
        assert engine.get_pipeline_allocation() == [[0, 1]]
        assert (allocation.where, allocation.fallbacks) == ("gpu", ())
        assert len(set(allocation.uuids)) == 2
        answer = engine.generate("Hello", max_tokens=8)
        assert answer.completion_tokens == 8
        assert answer.finish_reason == "length"
        assert str(answer) == answer.text != ""
        with pytest.raises(RuntimeError, match=r"vllm-tiny is loaded; unload\(\) it first"):
            engine.load_model("vllm:other")
    finally:
        engine.unload()


def test_pipeline_and_tensor_parallelism_together() -> None:
    with deepspeed(4, tensor_parallel=2, pipeline_parallel=2) as engine:
        engine.load_model("deepspeed:large-model")
        assert engine.get_pipeline_allocation() == [[0, 1], [2, 3]]
        assert engine.get_allocated_gpus() == [0, 1, 2, 3]
        assert engine.fallbacks == ()


def test_the_environment_gives_sizes_that_the_config_leaves_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUAI_OPT_DEEPSPEED_PIPELINE_PARALLEL", "2")
    monkeypatch.setenv("MUAI__GATEWAY__PORT", "1")  # for `muai run`, not for programs
    with deepspeed(4, tensor_parallel=2) as engine:
        engine.load_model("deepspeed:m")
        assert engine.get_pipeline_allocation() == [[0, 1], [2, 3]]
    with deepspeed(4) as engine:
        engine.load_model("deepspeed:m")
        assert engine.get_pipeline_allocation() == [[0], [1]]


def test_too_few_gpus_lead_to_a_single_one_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.WARNING, "muai_core.api"),
        deepspeed(3, tensor_parallel=2, pipeline_parallel=2) as engine,
    ):
        allocation = engine.load_model("deepspeed:m")
        assert engine.get_allocated_gpus() == [0]
        assert engine.get_pipeline_allocation() == [[0]]
        [step] = allocation.fallbacks
        assert engine.fallbacks == (step,)
        assert (step.wanted, step.instead) == ("TP 2 × PP 2 on GPUs", "a single GPU")
        assert "needs 4 devices on one node" in step.reason
        [warning] = [record.getMessage() for record in caplog.records]
        assert step.reason in warning
        assert engine.generate("Hello", max_tokens=2).completion_tokens == 2


def test_without_any_gpu_the_ranks_share_the_cpu() -> None:
    with deepspeed(0, tensor_parallel=1) as engine:
        allocation = engine.load_model("deepspeed:m")
        assert allocation.where == "cpu"
        assert engine.get_allocated_gpus() == []
        assert engine.get_pipeline_allocation() == [[0]]
        assert [step.instead for step in allocation.fallbacks] == ["the CPU"]
        assert "no GPU was found" in allocation.fallbacks[0].reason


def test_a_gpu_that_is_too_small_leads_to_the_cpu() -> None:
    with deepspeed(1, memory_gib=2) as small:
        assert small.load_model("deepspeed:m").where == "gpu"
    with deepspeed(1, memory_gib=100, cpu=False) as engine:
        with pytest.raises(AllocationError, match="deepspeed has no place to run") as caught:
            engine.load_model("deepspeed:m")
        assert "a single GPU" in str(caught.value)
        assert "the CPU: " in str(caught.value)
        assert engine.model is None


def test_fallback_can_be_switched_off() -> None:
    with deepspeed(3, tensor_parallel=2, pipeline_parallel=2, fallback=False) as engine:
        with pytest.raises(AllocationError, match="needs 4 devices on one node"):
            engine.load_model("deepspeed:m")
        with pytest.raises(RuntimeError, match="no model is loaded"):
            engine.get_pipeline_allocation()
        with pytest.raises(RuntimeError, match="no model is loaded"):
            engine.generate("Hello")


def test_two_engines_of_a_program_share_the_gpus_out(
    tmp_path: Path, simulated_config: Path
) -> None:
    with GPUManager(config=simulated_config) as manager:
        devices = {
            "sources": ["simulated"],
            "simulated": {"gpus": 4, "profile": "A100-80GB", "node": "box"},
        }

        def engine() -> DeepSpeedEngine:
            return DeepSpeedEngine(
                DeepSpeedConfig(tensor_parallel=2, options=OPTIONS, fallback=False),
                gpu_manager=manager,
                devices=devices,
                plugins=[STAND_IN],
            )

        with engine() as first, engine() as second, engine() as third:
            first.load_model("deepspeed:a")
            second.load_model("deepspeed:b")
            assert first.get_allocated_gpus() == [0, 1]
            assert second.get_allocated_gpus() == [2, 3]
            with pytest.raises(AllocationError):
                third.load_model("deepspeed:c")
            first.unload()
            third.load_model("deepspeed:c")
            assert third.get_allocated_gpus() == [0, 1]


def test_unload_leaves_no_process_and_no_file_and_may_be_repeated(tmp_path: Path) -> None:
    engine = deepspeed(4, tensor_parallel=2)
    engine.load_model("deepspeed:m")
    assert engine._loaded is not None
    folder = engine._loaded.controller._folder
    ours = processes_of(engine)
    assert len(ours) >= 2
    engine.unload()
    engine.unload()
    assert [process for process in ours if process.is_running()] == []
    assert not folder.exists()
    engine.load_model("deepspeed:again")
    engine.unload()


def test_an_engine_that_dies_comes_back(wait_until: Callable[..., Any]) -> None:
    with deepspeed(1) as engine:
        engine.load_model("deepspeed:m")
        controller, *workers = processes_of(engine)
        workers[0].send_signal(signal.SIGKILL)
        wait_until(lambda: not workers[0].is_running())
        assert engine.generate("Hello", max_tokens=3).completion_tokens == 3
        assert controller.is_running()


def test_an_engine_that_does_not_start_says_why() -> None:
    with deepspeed(1, python="/nowhere/python") as engine:
        with pytest.raises((EngineError, ConfigError), match="/nowhere/python"):
            engine.load_model("deepspeed:m")
        assert engine.model is None


def test_a_value_that_cannot_be_is_a_config_error() -> None:
    wrong = deepspeed(1, options={"no_such_option": 1})
    with wrong, pytest.raises(ConfigError, match="no_such_option"):
        wrong.load_model("deepspeed:m")
    with deepspeed(1) as engine, pytest.raises(ConfigError, match="no-such-folder"):
        engine.load_model("no-such-folder")


def test_generate_from_many_threads_at_once() -> None:
    with deepspeed(1) as engine:
        engine.load_model("deepspeed:m")
        counts: list[int] = []

        def ask(tokens: int) -> None:
            counts.append(engine.generate("Hello", max_tokens=tokens).completion_tokens)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 17)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(counts) == list(range(1, 17))


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_nothing_outlives_the_program(end: str, wait_until: Callable[..., Any]) -> None:
    program = f"""
import sys
from muai_core.api import DeepSpeedConfig, DeepSpeedEngine

engine = DeepSpeedEngine(
    DeepSpeedConfig(options={OPTIONS!r}), devices={machine(1)!r}, plugins=[{str(STAND_IN)!r}]
)
engine.load_model("deepspeed:m")
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        started = psutil.Process(running.pid).children(recursive=True)
        assert len(started) >= 2
        if end == "is killed":
            running.kill()
        running.stdin.close()
        running.wait(60)
    wait_until(lambda: not any(process.is_running() for process in started))
