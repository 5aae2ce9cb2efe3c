"""The engine `vllm` without vLLM: what it would start, what it refuses, what exits mean."""

import sys
from pathlib import Path

import pytest
from msgspec import structs
from muai_vllm.arguments import as_flags, mistakes
from muai_vllm.engine import VllmEngine

from muai_core import Deployment, Device, ExitEvidence, LaunchRequest, RankMemory

GIB = 2**30


def deployment(source: object, **more: object) -> Deployment:
    fields: dict[str, object] = {"platforms": ("cuda",), "max_model_len": 512, **more}
    return Deployment(name="chat", source=str(source), engine="vllm", **fields)  # type: ignore[arg-type]


def gpu(number: int) -> Device:
    return Device(
        uuid=f"GPU-{number}",
        index=number,
        node="n",
        kind="gpu",
        platform="cuda",
        name="H200",
        memory_total_bytes=140 * GIB,
    )


def request(wish: Deployment, count: int = 1, layers: tuple[int, ...] = ()) -> LaunchRequest:
    devices = tuple(gpu(number) for number in range(count))
    shards = wish.tensor_parallel_size
    uuids = [device.uuid for device in devices]
    stages = tuple(tuple(uuids[n : n + shards]) for n in range(0, count, shards))
    rank = RankMemory(
        weights_bytes=10 * GIB, kv_cache_bytes=4 * GIB, activation_bytes=GIB, overhead_bytes=GIB
    )
    return LaunchRequest(
        deployment=wish,
        replica_id="chat.0",
        epoch=1,
        devices=devices,
        stages=stages,
        layers=layers,
        ranks=(rank,) * len(stages),
        python="/opt/vllm/bin/python",
        host="127.0.0.1",
        port=4711,
    )


def value_of(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_everything_planned_is_passed_on(tiny_llama: Path) -> None:
    wish = deployment(tiny_llama, tensor_parallel_size=2, pipeline_parallel_size=2)
    launch = VllmEngine().launch(request(wish, 4, (1, 1)))
    argv = launch.argv
    assert argv[0] == "/opt/vllm/bin/python"
    assert value_of(argv, "--tensor-parallel-size") == "2"
    assert value_of(argv, "--pipeline-parallel-size") == "2"
    assert value_of(argv, "--max-model-len") == "512"
    assert int(value_of(argv, "--kv-cache-memory-bytes")) == 4 * GIB * (512 + 256) // 512
    assert value_of(argv, "--gpu-memory-utilization") == "0.115"
    assert launch.env["VLLM_PP_LAYER_PARTITION"] == "1,1"
    assert launch.env["HF_HUB_OFFLINE"] == "1"
    assert "--trust-remote-code" not in argv
    assert launch.exclusive_start
    assert not launch.listens_while_loading


def test_options_become_flags(tiny_llama: Path) -> None:
    options = {"max_num_seqs": 8, "enforce_eager": True, "arguments": {"seed": 3}}
    argv = VllmEngine().launch(request(deployment(tiny_llama, engine_options=options))).argv
    assert value_of(argv, "--max-num-seqs") == "8"
    assert value_of(argv, "--seed") == "3"
    assert "--enforce-eager" in argv


def test_eager_stages_on_a_cpu_are_warmed_up_all_the_same(tiny_llama: Path) -> None:
    eager = {"enforce_eager": True}
    for platform, stages, expected in (("cpu", 2, False), ("cpu", 1, True), ("cuda", 2, True)):
        wish = deployment(tiny_llama, pipeline_parallel_size=stages, engine_options=eager)
        asked = request(wish, stages, (1,) * stages)
        devices = tuple(structs.replace(one, platform=platform) for one in asked.devices)
        argv = VllmEngine().launch(structs.replace(asked, devices=devices)).argv
        assert ("--enforce-eager" in argv) == expected
        assert ("--compilation-config" in argv) != expected


def test_arguments_of_every_type() -> None:
    arguments = {"a_b": True, "c": False, "d": ["x", "y"], "e": {"k": 1}, "f": 0.5, "g": None}
    expected = ["--a-b", "--no-c", "--d", "x", "y", "--e", '{"k": 1}', "--f", "0.5"]
    assert as_flags(arguments) == expected


def test_all_mistakes_are_told_at_once() -> None:
    known: dict[str, list[str] | None] = {"seed": None, "load_format": ["auto", "dummy"]}
    arguments = {"tensor-parallel-size": 2, "sed": 1, "load_format": "none", "seed": 5}
    told = dict(mistakes(arguments, known, "0.32.0"))
    assert set(told) == {"tensor-parallel-size", "sed", "load_format"}
    assert "models.<name>.tensor_parallel_size" in told["tensor-parallel-size"]
    assert "did you mean seed?" in told["sed"]
    assert "allows auto, dummy" in told["load_format"]


def test_without_vllm_it_says_how_to_get_it(tiny_llama: Path, tmp_path: Path) -> None:
    engine = VllmEngine()
    engine.python = str(tmp_path / "bin" / "python")
    answer = engine.suits(deployment(tiny_llama))
    assert not answer.suitable
    assert "pip install" in answer.reason
    assert "engines.vllm.python" in answer.reason


def test_a_gguf_file_is_left_to_others(tmp_path: Path) -> None:
    environment = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (environment / "vllm-0.32.0.dist-info").mkdir(parents=True)
    engine = VllmEngine()
    engine.python = str(tmp_path / "venv" / "bin" / "python")
    answer = engine.suits(deployment(tmp_path / "model.gguf"))
    assert not answer.suitable


LOG = """\
(Worker pid=1) INFO 11-24 [parallel_state.py:1906] world_size={world} rank=0 local_rank=0 distri
(Worker pid=2) INFO 11-24 [parallel_state.py:1906] world_size={world} rank=1 local_rank=1 distri
(Worker pid=1) INFO 11-24 [parallel_state.py:2350] rank 0 in world size {world} is assigned as DP
(EngineCore pid=3) INFO 11-24 [kv_cache_utils.py:2327] GPU KV cache size: {tokens} tokens, Maximum
"""


@pytest.mark.parametrize(
    ("world", "tokens", "words"),
    [(2, "46,592", None), (1, "46,592", "world size 1"), (2, "128", "holds 128 tokens")],
)
def test_a_start_that_is_not_as_planned(
    tiny_llama: Path, world: int, tokens: str, words: str | None
) -> None:
    wish = request(deployment(tiny_llama, tensor_parallel_size=2), 2)
    found = VllmEngine().verify(wish, LOG.format(world=world, tokens=tokens))
    assert found is None if words is None else found is not None and words in found


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (
            "ValueError: To serve at least one request with the model's max seq len (512), (0.01 "
            "GiB KV cache is needed, which is larger than the available KV cache memory (0.01 GiB)",
            "out_of_memory_kv_cache",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than "
            "desired GPU memory utilization (0.9, 71.2 GiB).",
            "out_of_memory_weights",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "out_of_memory_weights"),
        ("api_server.py: error: unrecognized arguments: --sed 1", "bad_argument"),
        ("RuntimeError: NCCL error: unhandled system error", "collectives"),
        ("OSError: [Errno 98] Address already in use", "port_taken"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("FileNotFoundError: No such file: model.safetensors", "model_files"),
        ("huggingface_hub.errors.HFValidationError: Repo id must be in the form", "model_files"),
        ("EngineDeadError: EngineCore encountered an issue.", "rank_died"),
    ],
)
def test_exits_are_told_apart(line: str, kind: str) -> None:
    tail = f"INFO something\n(EngineCore pid=3) ERROR {line}\nINFO last"
    found = VllmEngine().classify(ExitEvidence(stage="load", status=1, log_tail=tail))
    assert found is not None
    assert found.kind == kind
    assert found.reason
    assert found.advice


QUOTES = (
    "WARNING failed to increase. This can cause errors like `OSError: [Errno 24] Too many open`."
)


@pytest.mark.parametrize("tail", ["INFO all is well", QUOTES])
def test_an_exit_that_tells_nothing(tail: str) -> None:
    assert VllmEngine().classify(ExitEvidence(stage="serving", log_tail=tail)) is None


def test_its_hooks_are_light() -> None:
    assert "vllm" not in sys.modules
