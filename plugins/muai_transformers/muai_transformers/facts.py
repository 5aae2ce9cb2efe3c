"""What a model's files say about its size, read from their headers in milliseconds.

Used in the controller to check a config and to claim memory, so it imports neither torch nor
transformers. What a file does not say is None, never a guess.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from muai_transformers.source import ModelSource

MAX_HEADER_BYTES = 100 * 2**20
BATCHABLE_LAYERS = frozenset({"full_attention", "sliding_attention"})

# GGUF, version 2 and 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_GGUF_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_GGUF_STRING, _GGUF_ARRAY = 8, 9


class ModelFacts(Struct, frozen=True, kw_only=True):
    """Sizes of one model. `kv_values_per_token` counts keys and values over all layers."""

    parameters: int | None = None
    context_tokens: int | None = None
    kv_values_per_token: int | None = None
    unsupported: str | None = None
    """Why this engine cannot serve the model at all."""


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; elsewhere it is emulated, slower than float32."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(words)


def read_facts(source: ModelSource) -> ModelFacts:
    """Reads the headers. Raises OSError or ValueError when a file is not what it claims to be."""
    if source.gguf_path is not None:
        return _gguf_facts(source.gguf_path)
    return _folder_facts(source.folder)


def _folder_facts(folder: Path) -> ModelFacts:
    config = json.loads((folder / "config.json").read_bytes())
    text = config.get("text_config") or config
    return ModelFacts(
        parameters=_safetensors_parameters(folder),
        context_tokens=text.get("max_position_embeddings"),
        kv_values_per_token=_kv_values_of(text),
        unsupported=_unsupported(config, text),
    )


def _unsupported(config: dict[str, Any], text: dict[str, Any]) -> str | None:
    names = config.get("architectures") or []
    if names and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return f"is {', '.join(names)}, which is not a decoder-only language model"
    others = sorted(set(text.get("layer_types") or ()) - BATCHABLE_LAYERS)
    if others:
        return f"has layers of type {', '.join(others)}, which this engine cannot batch"
    return None


def _kv_values_of(text: dict[str, Any]) -> int | None:
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    hidden = text.get("hidden_size")
    if not (layers and heads and hidden):
        return None
    head_size = text.get("head_dim") or hidden // heads
    return 2 * int(layers) * int(text.get("num_key_value_heads") or heads) * int(head_size)


def _safetensors_parameters(folder: Path) -> int | None:
    """Each file begins with the length of a JSON header that lists shapes."""
    files = sorted(folder.glob("*.safetensors"))
    total = 0
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"{path}: not a safetensors file: its header has {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        total += sum(_product(tensor["shape"]) for tensor in header.values())
    return total if files else None


def _gguf_facts(path: Path) -> ModelFacts:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path}: not a GGUF file")
        try:
            return _gguf_header(file)
        except (struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError) as error:
            raise ValueError(f"{path}: its GGUF header is broken: {error!r}") from None


def _gguf_header(file: BinaryIO) -> ModelFacts:
    version, tensors, pairs = _read(file, "IQQ")
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version} is not supported; versions 2 and 3 are")
    values = {}
    for _ in range(pairs):
        key = _string(file)
        values[key] = _value(file, *_read(file, "I"))
    parameters = sum(_product(shape) for shape in _tensor_shapes(file, tensors))
    arch = values.get("general.architecture")

    def of(name: str) -> int | None:
        value = values.get(f"{arch}.{name}")
        return int(value) if isinstance(value, int) else None

    layers, heads, hidden = (
        of("block_count"),
        of("attention.head_count"),
        of("embedding_length"),
    )
    kv_values = None
    if layers and heads and hidden:
        kv_heads = of("attention.head_count_kv") or heads
        key_size = of("attention.key_length") or hidden // heads
        value_size = of("attention.value_length") or key_size
        kv_values = layers * kv_heads * (key_size + value_size)
    return ModelFacts(
        parameters=parameters,
        context_tokens=of("context_length"),
        kv_values_per_token=kv_values,
    )


def _tensor_shapes(file: BinaryIO, count: int) -> Iterator[tuple[int, ...]]:
    for _ in range(count):
        _string(file)
        (dimensions,) = _read(file, "I")
        yield _read(file, f"{dimensions}Q")
        _read(file, "IQ")


def _value(file: BinaryIO, kind: int) -> object:
    """One metadata value; arrays (vocabularies) are skipped."""
    if kind == _GGUF_STRING:
        return _string(file)
    if kind != _GGUF_ARRAY:
        return _read(file, _GGUF_SCALARS[kind])[0]
    item_kind, length = _read(file, "IQ")
    if item_kind in _GGUF_SCALARS:
        file.seek(length * struct.calcsize("<" + _GGUF_SCALARS[item_kind]), 1)
        return None
    for _ in range(length):
        _value(file, item_kind)
    return None


def _string(file: BinaryIO) -> str:
    (length,) = _read(file, "Q")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a string of {length} bytes in a GGUF header")
    return file.read(length).decode()


def _read(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack("<" + layout, file.read(struct.calcsize("<" + layout)))


def _product(shape: tuple[int, ...] | list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
