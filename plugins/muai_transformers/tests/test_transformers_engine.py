"""What the controller asks: does it suit, what is wrong, how much memory, how to start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from muai_torch.cpu import cpu_has_bfloat16
from muai_torch.source import SourceError, find_source
from muai_transformers.config import TransformersOptions
from muai_transformers.engine import GIB, TransformersEngine
from pydantic import ValidationError

from muai_core import Deployment, Device, LaunchRequest, MemoryProfile, describe_model
from muai_core.planning.estimate import EstimateRequest, memory_needs

ENGINE = TransformersEngine()
CPU = Device(
    uuid="cpu-0",
    node="here",
    index=0,
    kind="cpu",
    platform="cpu",
    name="CPU",
    memory_total_bytes=16 * GIB,
)


def deployment(source: str | Path, **fields: object) -> Deployment:
    known = {"name": "tiny", "engine": "transformers", "platforms": ("cpu",), **fields}
    return Deployment(source=str(source), **known)


def gguf_bytes() -> bytes:
    """A GGUF file with a vocabulary to skip and the keys of two layers."""
    import struct

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    pairs = [
        string("general.architecture") + struct.pack("<I", 8) + string("llama"),
        string("llama.context_length") + struct.pack("<II", 4, 2048),
        string("llama.block_count") + struct.pack("<II", 4, 2),
        string("llama.embedding_length") + struct.pack("<II", 4, 64),
        string("llama.attention.head_count") + struct.pack("<II", 4, 4),
        string("llama.attention.head_count_kv") + struct.pack("<II", 4, 2),
        string("tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("bc"),
        string("scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.0, 1.0),
    ]
    names = ("token_embd.weight", "blk.0.attn_k.weight", "blk.1.attn_k.weight")
    infos = [
        string(name) + struct.pack("<I2QIQ", 2, 64, 32, 0, place * 64 * 32 * 4)
        for place, name in enumerate(names)
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs + infos)
    return head + bytes(-len(head) % 32) + bytes(len(infos) * 64 * 32 * 4)


@pytest.mark.parametrize("size", [0, 3, 4, 20, 30, 150, 200])
def test_broken_gguf_files_do_not_suit(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes()[:size])
    answer = ENGINE.suits(deployment(path))
    assert not answer.suitable
    assert "model.gguf" in answer.reason


def test_sources_that_are_not_there() -> None:
    for source, words in (
        ("package:no_such_package_here/x.gguf", "not installed"),
        ("package:json/missing.gguf", "no missing.gguf"),
        ("package:json", "write package:PACKAGE/PATH"),
        ("package:json/../os.py", "no ../os.py"),
        ("/no/such/folder", "no such file or folder"),
        ("./model.gguf", "no such file or folder"),
        ("organisation/name", "no such file or folder"),
    ):
        with pytest.raises(SourceError, match=words):
            find_source(source)
        assert words in ENGINE.suits(deployment(source)).reason


def test_whole_gguf_files_suit(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf_bytes())
    for source in (tmp_path, tmp_path / "model.gguf"):
        assert ENGINE.suits(deployment(source)).suitable


def test_other_kinds_of_model_do_not_suit(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}
    sizes["intermediate_size"] = 16
    linear = {"layer_types": ["linear_attention"], **sizes}
    for config, words in (
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"architectures": ["LlavaForConditionalGeneration"], **sizes}, "not a decoder-only"),
        ({"architectures": ["LlamaForCausalLM"], **linear}, "without attention"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        answer = ENGINE.suits(deployment(tmp_path))
        assert not answer.suitable
        assert words in answer.reason


def test_all_complaints_at_once(tiny_folder: Path) -> None:
    wish = deployment(
        tiny_folder,
        tensor_parallel_size=2,
        pipeline_parallel_size=3,
        dtype="int4",
        max_model_len=1024,
    )
    complaints = {c.field: c.message for c in ENGINE.check(wish)}
    assert complaints["tensor_parallel_size"].startswith("2 is not possible")
    assert complaints["pipeline_parallel_size"].startswith("3 is not possible")
    assert "bfloat16" in complaints["dtype"]
    assert "512 tokens" in complaints["max_model_len"]
    assert ENGINE.check(deployment(tiny_folder)) == ()


def test_memory_is_weights_and_cache(tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = describe_model(tiny_folder)
    parameters = AutoModelForCausalLM.from_pretrained(tiny_folder).num_parameters()
    full_bytes = 16 * 512 * 128 * 4
    for dtype, value_bytes, options, cache_bytes in (
        ("float32", 4, {}, full_bytes),
        ("float16", 2, {"kv_cache_gib": 2.0}, 2 * GIB),
        ("auto", 2 if cpu_has_bfloat16() else 4, {"kv_cache_gib": 2.0}, 2 * GIB),
    ):
        wish = deployment(tiny_folder, dtype=dtype, engine_options=options)
        profile = ENGINE.memory(wish, model)
        assert isinstance(profile, MemoryProfile)
        needs = memory_needs(model, profile, EstimateRequest(dtype=dtype))
        (shape,) = needs.shapes
        assert shape.device_count == 1
        (rank,) = needs.ranks(shape, (2,))
        assert rank.weights_bytes == parameters * value_bytes
        assert rank.kv_cache_bytes == cache_bytes
        assert rank.overhead_bytes >= GIB


def test_memory_of_no_model_file_is_unknown(tmp_path: Path) -> None:
    assert ENGINE.memory(deployment(tmp_path), None) is None


def test_launch_names_everything(tiny_folder: Path) -> None:
    options = {"max_num_seqs": 4, "num_threads": 1, "keep_unpacked": False}
    wish = deployment(tiny_folder, max_model_len=256, engine_options=options)
    launch = ENGINE.launch(
        LaunchRequest(
            deployment=wish,
            replica_id="tiny-0",
            epoch=1,
            devices=(CPU,),
            stages=(("cpu-0",),),
            python="/opt/python",
            host="127.0.0.1",
            port=8123,
        )
    )
    command = " ".join(launch.argv)
    assert command.startswith("/opt/python -P -m muai_transformers.worker")
    value_bytes = 2 if cpu_has_bfloat16() else 4
    for part in (
        f"--model {tiny_folder} --served-model-name tiny",
        "--host 127.0.0.1 --port 8123",
        "--device cpu --max-num-seqs 4 --max-model-len 256",
        f"--kv-cache-bytes {4 * 256 * 128 * value_bytes} --num-threads 1",
        "--no-cache",
    ):
        assert part in command
    assert launch.served_model_name == "tiny"


def test_options_are_checked_and_documented() -> None:
    with pytest.raises(ValidationError):
        TransformersOptions.model_validate({"max_num_seq": 4})
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for name in TransformersOptions.model_fields:
        assert f"`{name}`" in readme, f"README.md does not document {name}"


def test_hooks_are_light() -> None:
    code = (
        "import sys, muai_transformers.hooks as hooks; hooks.muai_engines();"
        "print([m for m in ('torch', 'transformers', 'aiohttp', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_family_is_served_only_with_code_of_its_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    config |= {"model_type": "brandnew", "architectures": ["BrandNewForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused = ENGINE.suits(deployment(tmp_path))
    assert (refused.suitable, "unknown architecture" in refused.reason) == (False, True)
    trusted = {"trust_remote_code": True}
    assert ENGINE.suits(deployment(tmp_path, engine_options=trusted)).suitable


def test_more_concurrency_is_more_cache(tiny_folder: Path) -> None:
    model = describe_model(tiny_folder)

    def cache_bytes(concurrency: int) -> int:
        wish = deployment(tiny_folder, max_model_len=2**20, concurrency=concurrency)
        profile = ENGINE.memory(wish, model)
        assert isinstance(profile, MemoryProfile)
        assert profile.kv_cache_bytes is not None
        return profile.kv_cache_bytes

    assert cache_bytes(40) == 40 * cache_bytes(20) // 20
