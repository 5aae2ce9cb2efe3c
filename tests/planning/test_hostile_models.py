"""Models that are no models: one line and status 2, within bounds of time and memory."""

import json
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: Address space of a command. Python with all that a command imports takes a third of it.
MEMORY_BYTES = 1024 * 1024**2
DEADLINE_S = 60

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
SHARD = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Done:
    def __init__(self, finished: "subprocess.CompletedProcess[str]") -> None:
        self.status, self.out, self.err = finished.returncode, finished.stdout, finished.stderr


Muai = Callable[..., Done]


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.fixture
def muai(tmp_path: Path) -> Muai:
    """Runs one command with bounded memory, in the test's folder, to its end."""
    plugins = ",".join(point.name for point in entry_points(group="muai"))
    environ = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "HOME": str(tmp_path),
        "MUAI_STATE_DIR": str(tmp_path / "state"),
        "MUAI_DISABLE_PLUGINS": plugins,
    }

    def run(*arguments: str, enabled: str = "") -> Done:
        disabled = ",".join(name for name in plugins.split(",") if name != enabled)
        return Done(
            subprocess.run(
                [sys.executable, "-m", "muai_core.cli.main", *arguments],
                cwd=tmp_path,
                env={**environ, "MUAI_DISABLE_PLUGINS": disabled},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                timeout=DEADLINE_S,
                check=False,
                preexec_fn=_limited,
            )
        )

    return run


def assert_refused(done: Done, *words: str, longest: int = 0) -> None:
    """One line that a person can read, and nothing else; `longest`: what the user wrote."""
    assert done.err.count("\n") == 1, done.err
    assert (done.status, done.out) == (2, ""), done.err
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err
    assert len(done.err) < 1000 + longest, done.err
    for word in words:
        assert word in done.err


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def write_model(folder: Path, config: Any = LLAMA, weights: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights is not None:
        (folder / SHARD).write_bytes(weights)
    return folder


def test_the_model_that_the_others_are_made_from_is_understood(muai: Muai, tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    done = muai("memory", "m")
    assert (done.status, done.err) == (0, "")
    assert "LlamaForCausalLM" in done.out


# Places: what the argument itself may lead to.


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _two_loops(path: Path) -> None:
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        # Names of sockets are short.
        os.chdir(path.parent)
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _config_is(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        path.mkdir()
        make(path / "config.json")

    return build


def _weights_are(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        write_model(path)
        make(path / SHARD)

    return build


def _index_is(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        write_model(path)
        make(path / INDEX)

    return build


def _device(name: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(f"/dev/{name}")


MAKERS: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "loop": _loop,
    "two-loops": _two_loops,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "pipe": lambda path: os.mkfifo(path),
    "socket": _socket,
    "zero": _device("zero"),
    "urandom": _device("urandom"),
    "tty": _device("tty"),
    "empty": lambda path: path.touch(),
    "sparse": _sparse,
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 64) and None,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["m", "m.gguf", "m.safetensors"])
def test_a_path_that_is_no_model(kind: str, name: str, muai: Muai, tmp_path: Path) -> None:
    MAKERS[kind](tmp_path / name)
    assert_refused(muai("memory", name), name)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("wrap", [_config_is, _weights_are, _index_is])
def test_a_folder_with_a_file_that_is_none(
    kind: str, wrap: Any, muai: Muai, tmp_path: Path
) -> None:
    wrap(MAKERS[kind])(tmp_path / "m")
    assert_refused(muai("memory", "m"), "m")


@pytest.mark.parametrize(
    "name",
    [
        "nowhere",
        "",
        "x" * 300,
        "x/" * 3000,
        "line\nbreak",
        "\x1b[31mred",
        "meta-llama/Llama-3.1-8B",
        "package:",
        "package:nowhere/config.json",
        "package:json/../../../etc/passwd",
        "package:muai_core/nowhere.gguf",
        "~nobody-of-that-name/model",
        "muai_core.py/config.json",
    ],
    ids=lambda name: repr(name[:20]),
)
def test_a_name_that_leads_nowhere(name: str, muai: Muai) -> None:
    assert_refused(muai("memory", "--", name), longest=2 * len(name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(muai: Muai, tmp_path: Path) -> None:
    (write_model(tmp_path / "m") / "config.json").chmod(0)
    assert_refused(muai("memory", "m"), "config.json", "denied")


# config.json

HUGE = 10**30


def _with(**changes: Any) -> dict[str, Any]:
    return {**LLAMA, **changes}


def _without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in LLAMA.items() if key not in keys}


CONFIGS: dict[str, Any] = {
    "empty object": {},
    "list": [],
    "text": '"llama"',
    "null": "null",
    "no json": "model_type: llama",
    "cut off": json.dumps(LLAMA)[:-20],
    "two": json.dumps(LLAMA) * 2,
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "deep value": json.dumps(LLAMA)[:-1] + ',"a":' + "[" * 200_000 + "]" * 200_000 + "}",
    "key twice": '{"hidden_size": 1, ' + json.dumps(LLAMA)[1:],
    "not utf-8": b"\xff\xfe".decode("latin-1"),
    "unknown family": _with(model_type="xyzzy", architectures=["XyzzyForCausalLM"]),
    "no family": _without("model_type", "architectures"),
    "family is a number": _with(model_type=7),
    "family is a list": _with(model_type=["llama"]),
    "classes are a text": _with(architectures="LlamaForCausalLM"),
    "classes are numbers": _with(architectures=[1, 2]),
    "classifier": _with(model_type="bert", architectures=["BertForSequenceClassification"]),
    "no layers key": _without("num_hidden_layers"),
    "no hidden size": _without("hidden_size"),
    "no heads": _without("num_attention_heads"),
    "no vocabulary": _without("vocab_size"),
    "layer count in digits": json.dumps(LLAMA).replace(
        '"num_hidden_layers": 2', '"num_hidden_layers": ' + "9" * 10_000
    ),
    "size in digits": json.dumps(LLAMA).replace('"hidden_size": 64', '"hidden_size": 1e999'),
    "quantization is a list": _with(quantization_config=[]),
    "quantization is a text": _with(quantization_config="fp8"),
    "quantization of no method": _with(quantization_config={"bits": 4}),
    "bits of zero": _with(quantization_config={"quant_method": "gptq", "bits": 0}),
    "bits of 10^30": _with(quantization_config={"quant_method": "awq", "bits": HUGE}),
    "block of zero": _with(
        quantization_config={"quant_method": "fp8", "weight_block_size": [0, 0]}
    ),
    "block of one": _with(quantization_config={"quant_method": "fp8", "weight_block_size": [128]}),
    "dtype of nothing": _with(torch_dtype="float7"),
    "dtype is a number": _with(torch_dtype=16),
    "text config is a list": _with(model_type="llava", text_config=[]),
    "layer types too short": _with(model_type="gemma2", layer_types=["full_attention"]),
    "layer types unknown": _with(model_type="qwen3_next", layer_types=["poetry"] * 2),
    "too many experts": _with(
        model_type="mixtral",
        architectures=["MixtralForCausalLM"],
        num_hidden_layers=10_000,
        num_local_experts=16_384,
        num_experts_per_tok=2,
    ),
}
for _key in (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
):
    for _name, _value in {
        "10^30": HUGE,
        "-1": -1,
        "0": 0,
        "NaN": float("nan"),
        "Infinity": float("inf"),
        "2.5": 2.5,
        "true": True,
        "a text": "64",
        "a list": [64],
        "an object": {"a": 1},
    }.items():
        # A feed-forward part may have another size in each layer.
        if (_key, _name) != ("intermediate_size", "a list"):
            CONFIGS[f"{_key} is {_name}"] = _with(**{_key: _value})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_describes_no_model(name: str, muai: Muai, tmp_path: Path) -> None:
    write_model(tmp_path / "m", CONFIGS[name])
    assert_refused(muai("memory", "m"), "m")


def test_a_config_of_a_gigabyte_is_not_read(muai: Muai, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    with (folder / "config.json").open("r+b") as file:
        file.truncate(2**30)
    assert_refused(muai("memory", "m"), "config.json", "1,073,741,824")


def test_the_same_as_json(muai: Muai, tmp_path: Path) -> None:
    write_model(tmp_path / "m", CONFIGS["hidden_size is -1"])
    for name in ("m", "nowhere"):
        done = muai("memory", name, "--json")
        assert (done.status, done.err) == (2, "")
        told = json.loads(done.out)
        assert (told["file"], told["ok"]) == (name, False)
        (problem,) = told["problems"]
        assert problem["message"]


# Weights

ONE = {"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}


def _one(**changes: Any) -> bytes:
    return header({"a": {**ONE["a"], **changes}}) + bytes(8)


WEIGHTS: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "length of zero": bytes(8),
    "length of 2^64": b"\xff" * 8,
    "length beyond the end": struct.pack("<Q", 1000) + b"{}",
    "cut off": header(ONE)[:-4],
    "no data": header(ONE),
    "too much data": header(ONE) + bytes(80),
    "noise": struct.pack("<Q", 64) + bytes(range(64)),
    "list": header([]),  # type: ignore[arg-type]
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "deep entry": struct.pack("<Q", 600_006) + b'{"a":' + b'{"a":' * 120_000 + b"1",
    "unknown dtype": _one(dtype="F7"),
    "dtype is a number": _one(dtype=7),
    "negative shape": _one(shape=[-2, -2]),
    "shape of 10^30": _one(shape=[HUGE, 2]),
    "shape of NaN": _one(shape=[float("nan")]),
    "shape is a text": _one(shape="2x2"),
    "a thousand dimensions": _one(shape=[1] * 1000),
    "offsets backwards": _one(data_offsets=[8, 0]),
    "offsets of 10^30": _one(data_offsets=[0, HUGE]),
    "offsets negative": _one(data_offsets=[-8, 0]),
    "three offsets": _one(data_offsets=[0, 4, 8]),
    "one offset": _one(data_offsets=[0]),
    "no offsets": header({"a": {"dtype": "BF16", "shape": [2, 2]}}) + bytes(8),
    "entry is null": header({"a": None}) + bytes(8),
    "overlap": header({**ONE, "b": ONE["a"]}) + bytes(8),
    "gap": header({**ONE, "b": {**ONE["a"], "data_offsets": [16, 24]}}) + bytes(24),
    "name twice": struct.pack("<Q", 2 * len(json.dumps(ONE)))
    + json.dumps(ONE)[:-1].encode()
    + b", "
    + json.dumps(ONE)[1:].encode()
    + bytes(8),
    "not utf-8": struct.pack("<Q", 8) + b'{"\xff\xfe":1' + bytes(8),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_with_a_broken_header(name: str, muai: Muai, tmp_path: Path) -> None:
    write_model(tmp_path / "m", weights=WEIGHTS[name])
    assert_refused(muai("memory", "m"), SHARD)


def _map(**weight_map: Any) -> str:
    return json.dumps({"metadata": {}, "weight_map": weight_map})


INDEXES: dict[str, str] = {
    "empty": "",
    "no map": "{}",
    "map is a list": '{"weight_map": []}',
    "map of numbers": _map(a=1),
    "map is empty": _map(),
    "file is missing": _map(a="model-00001-of-00002.safetensors"),
    "file outside": _map(a="../../../../../../etc/passwd"),
    "file by its whole path": _map(a="/etc/passwd"),
    "file above": _map(a=".."),
    "file here": _map(a="."),
    "file without a name": _map(a=""),
    "name with a zero": _map(a="a\0b"),
    "name of megabytes": _map(a="x" * 2_000_000),
    "tensor that is not there": _map(b="part.safetensors"),
    "ten thousand files": _map(**{f"t{one}": f"f{one}" for one in range(20_000)}),
    "deep": '{"weight_map":' + "[" * 200_000,
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_names_nothing_good(name: str, muai: Muai, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "part.safetensors").write_bytes(header(ONE) + bytes(8))
    (folder / INDEX).write_text(INDEXES[name])
    done = muai("memory", "m")
    assert_refused(done)
    assert "root:" not in done.err


def test_an_index_does_not_follow_links_out_of_its_folder_into_anything_but_weights(
    muai: Muai, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "part.safetensors").symlink_to("/etc/passwd")
    (folder / INDEX).write_text(INDEXES["tensor that is not there"])
    done = muai("memory", "m")
    assert_refused(done, "part.safetensors")
    assert "root:" not in done.err


# GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

_UINT32, _STRING, _ARRAY = 4, 8, 9


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def gguf(*values: bytes, tensors: bytes = b"", count: int = 0, pairs: int | None = None) -> bytes:
    there = len(values) if pairs is None else pairs
    start = b"GGUF" + struct.pack("<IQQ", 3, count, there)
    return (start + b"".join(values) + tensors).ljust(4096, b"\0")


NAMED = _value("general.architecture", _STRING, _text("llama"))

GGUFS: dict[str, bytes] = {
    "magic alone": b"GGUF",
    "another magic": b"GGML" + bytes(100),
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(100),
    "version 99": b"GGUF" + struct.pack("<IQQ", 99, 0, 0) + bytes(100),
    "big endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(100),
    "nothing in it": gguf(),
    "2^64 tensors": gguf(NAMED, count=2**64 - 1),
    "2^40 tensors": gguf(NAMED, count=2**40),
    "2^64 pairs": gguf(NAMED, pairs=2**64 - 1),
    "2^32 pairs": gguf(NAMED, pairs=2**32),
    "key of 2^63 bytes": gguf(struct.pack("<Q", 2**63), pairs=1),
    "text of 2^63 bytes": gguf(_value("a", _STRING, struct.pack("<Q", 2**63))),
    "text of 2^30 bytes": gguf(_value("a", _STRING, struct.pack("<Q", 2**30))),
    "unknown kind": gguf(_value("a", 99, bytes(8))),
    "array of 2^63": gguf(_value("a", _ARRAY, struct.pack("<IQ", _UINT32, 2**63))),
    "array of 2^60 texts": gguf(_value("a", _ARRAY, struct.pack("<IQ", _STRING, 2**60))),
    "array of an unknown kind": gguf(_value("a", _ARRAY, struct.pack("<IQ", 99, 1))),
    "arrays in arrays": gguf(_value("a", _ARRAY, struct.pack("<IQ", _ARRAY, 1) * 300)),
    "family alone": gguf(NAMED),
    "unknown family": gguf(_value("general.architecture", _STRING, _text("xyzzy"))),
    "family is a number": gguf(_value("general.architecture", _UINT32, struct.pack("<I", 7))),
    "not utf-8": gguf(_value("general.architecture", _STRING, struct.pack("<Q", 2) + b"\xff\xfe")),
    "10^9 dimensions": gguf(
        NAMED, tensors=_text("token_embd.weight") + struct.pack("<I", 10**9), count=1
    ),
    "dimension of 2^64": gguf(
        NAMED,
        tensors=_text("token_embd.weight") + struct.pack("<IQQIQ", 2, 2**64 - 1, 2**64 - 1, 0, 0),
        count=1,
    ),
    "unknown type": gguf(
        NAMED, tensors=_text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, 2, 999, 0), count=1
    ),
    "data beyond the end": gguf(
        NAMED,
        tensors=_text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, 2, 0, 2**62),
        count=1,
    ),
    "layers of 2^32": gguf(
        NAMED, _value("llama.block_count", _UINT32, struct.pack("<I", 2**32 - 1))
    ),
    "alignment of zero": gguf(
        NAMED, _value("general.alignment", _UINT32, struct.pack("<I", 0)), count=0
    ),
}


@pytest.mark.parametrize("name", GGUFS)
def test_a_broken_gguf_file(name: str, muai: Muai, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUFS[name])
    assert_refused(muai("memory", "m.gguf"), "m.gguf")


# The same in a config: a mistake with its line.

CONFIG = """\
models:
  chat:
    source: m
    engine: simulated
"""


@pytest.mark.parametrize("command", ["check", "plan"])
@pytest.mark.parametrize(
    "make",
    [
        _config_is(MAKERS["pipe"]),
        _config_is(MAKERS["loop"]),
        _config_is(MAKERS["sparse"]),
        _config_is(MAKERS["noise"]),
        _weights_are(MAKERS["zero"]),
        _weights_are(MAKERS["noise"]),
        _weights_are(lambda path: path.write_bytes(WEIGHTS["cut off"]) and None),
        _index_is(lambda path: path.write_text(INDEXES["file outside"]) and None),
        lambda path: write_model(path, CONFIGS["num_hidden_layers is 10^30"]) and None,
        lambda path: write_model(path, CONFIGS["num_attention_heads is -1"]) and None,
        lambda path: write_model(path, CONFIGS["unknown family"]) and None,
        lambda path: path.write_bytes(GGUFS["2^64 tensors"]) and None,
        MAKERS["pipe"],
        MAKERS["loop"],
        MAKERS["zero"],
    ],
)
def test_a_config_that_names_such_a_model(
    command: str, make: Callable[[Path], None], muai: Muai, tmp_path: Path
) -> None:
    make(tmp_path / "m")
    (tmp_path / "muai.yaml").write_text(CONFIG)
    done = muai(command, "muai.yaml", enabled="simulated")
    assert (done.status, done.out) == (2, ""), done.err
    assert "Traceback" not in done.err
    assert "failed to answer" not in done.err
    assert any(f"muai.yaml:{line}" in done.err for line in (2, 3, 4)), done.err
    assert "1 error, nothing was started" in done.err


# Whatever the values are.

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 300)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["bfloat16", "fp8", "gptq", "full_attention", "llama", "qwen3_moe"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
KEYS = (
    *LLAMA,
    "head_dim",
    "sliding_window",
    "layer_types",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "quantization_config",
    "tie_word_embeddings",
    "text_config",
    "rope_scaling",
)
FAMILIES = ("llama", "mixtral", "qwen3_moe", "deepseek_v3", "gemma2", "gpt_oss", "mamba", "falcon")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    family=st.sampled_from(FAMILIES),
    changes=st.dictionaries(st.sampled_from(KEYS), JSON_VALUES, max_size=3),
)
def test_any_config_is_understood_or_refused(
    family: str, changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "m", {**LLAMA, "model_type": family, **changes})
    assert_bounded_answer(folder, capsys)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), whole=st.sampled_from([_one(), *GGUFS.values()]))
def test_any_damage_to_a_file_is_refused_or_harmless(
    data: st.DataObject, whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, min(len(damaged), 200) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    if whole.startswith(b"GG"):
        path = tmp_path / "m.gguf"
        path.write_bytes(damaged)
    else:
        path = write_model(tmp_path / "m", weights=bytes(damaged))
    assert_bounded_answer(path, capsys)


def assert_bounded_answer(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An estimate, or one line and status 2."""
    from muai_core.cli import main

    status = main.run(["memory", str(path), "--tensor-parallel", "2", "--max-model-len", "64"])
    told = capsys.readouterr()
    assert status in (0, 2), told.err
    assert told.err.count("\n") <= 1, told.err
    assert bool(told.out) == (status == 0)
