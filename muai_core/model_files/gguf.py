"""GGUF files, version 2 and 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

A header of keys with values and of tensors with their places, then the tensors' data. Lists of
strings, as vocabularies are, are passed over without making a string of each.
"""

from itertools import pairwise
from math import prod
from pathlib import Path
from struct import Struct as Layout
from typing import Any, Literal

from msgspec import Struct

from muai_core.model.architecture import ModelDescription, ModelError, TensorInfo
from muai_core.model_files.gguf_header import MAX_ITEMS, GgufHeader
from muai_core.model_files.gguf_types import GGML_TYPES
from muai_core.model_files.reading import OpenFile, parsed, shown_path
from muai_core.model_files.series import check_complete, split_series
from muai_core.planning.architecture_gguf import architecture_of_gguf
from muai_core.planning.gguf_names import GgufName, hugging_face_name
from muai_core.planning.wording import one_line

MAX_TENSORS = 2**18
_MAX_KEYS = 2**16
#: GGML_MAX_DIMS.
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 2**20
_BLOCKS = {kind.name: (kind.values, kind.size_bytes) for kind in GGML_TYPES.values()}

_START = Layout("<4sIQQ")
_U32 = Layout("<I")
_TYPE_AND_OFFSET = Layout("<IQ")


class GgufFile(Struct, frozen=True):
    """One file's header: metadata without long lists, tensors with GGUF names."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]


def describe_gguf(path: Path) -> ModelDescription:
    """From one file, or from all parts of a series if it is one of them. Raises ModelError."""
    series = split_series(path.name, ".gguf") or (path.name,)
    check_complete(path.parent, series)
    files = [parsed(path.parent / name, read_gguf) for name in series]
    metadata = files[0].metadata
    try:
        tensors, layers = _translated([tensor for file in files for tensor in file.tensors])
        _check_count(metadata, len(tensors), len(files))
        architecture = architecture_of_gguf(metadata, layers, tensors, _BLOCKS)
    except ModelError as error:
        raise ModelError(f"{shown_path(path.parent / series[0])}: {error}") from None
    return ModelDescription(architecture=architecture, tensors=tensors, origin="gguf")


def _translated(
    tensors: list[TensorInfo],
) -> tuple[tuple[TensorInfo, ...], dict[int, frozenset[str]]]:
    """With Hugging Face names; and the GGUF names in each layer."""
    names = [GgufName(tensor.name) for tensor in tensors]
    in_layer: dict[int, set[str]] = {}
    for name in names:
        if name.layer is not None:
            in_layer.setdefault(name.layer, set()).add(name.base)
    layers = {layer: frozenset(found) for layer, found in in_layer.items()}
    translated: dict[str, TensorInfo] = {}
    for tensor, name in zip(tensors, names, strict=True):
        around = layers[name.layer] if name.layer is not None else frozenset()
        new = hugging_face_name(name, around)
        if new in translated:
            raise ModelError(f"tensor '{one_line(tensor.name, 80)}' is there twice")
        translated[new] = TensorInfo(new, tensor.dtype, tensor.shape, tensor.size_bytes)
    return tuple(translated.values()), layers


def _check_count(metadata: dict[str, Any], tensors: int, files: int) -> None:
    parts = metadata.get("split.count")
    if isinstance(parts, int) and parts not in (0, files):
        raise ModelError(
            f"split.count is {parts:,}, but its name stands for {files:,} files: name the first of "
            "NAME-00001-of-000NN.gguf"
        )
    promised = metadata.get("split.tensors.count")
    if isinstance(promised, int) and promised not in (0, tensors):
        raise ModelError(f"split.tensors.count is {promised:,}, but there are {tensors:,} tensors")


def read_gguf(file: OpenFile) -> GgufFile:
    """Raises ModelError, without the path."""
    header = GgufHeader(file)
    magic, version, tensor_count, key_count = header.take(_START)
    if magic != b"GGUF":
        raise ModelError("it is no GGUF file: needed are the letters GGUF at its beginning")
    if version not in (2, 3):
        swapped = " (it is big-endian)" if version & 0xFFFF == 0 else ""
        raise ModelError(f"its GGUF version is {version}{swapped}: allowed: 2, 3, little-endian")
    for what, count, most in (
        ("tensors", tensor_count, MAX_TENSORS),
        ("keys", key_count, _MAX_KEYS),
    ):
        if count > most:
            raise ModelError(f"its header lists {count:,} {what}: allowed are {most:,}")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = header.name("a key")
        if key in metadata:
            raise ModelError(f"key '{one_line(key, 80)}' is there twice")
        metadata[key] = header.value()
    places = [_tensor(header) for _ in range(tensor_count)]
    _check_places(places, file.size_bytes - _data_start(metadata, header.at))
    return GgufFile(metadata, tuple(place[1] for place in places))


def _tensor(header: GgufHeader) -> tuple[int, TensorInfo]:
    """Where its data begin, and what it is."""
    name = header.name("a tensor's name")
    shown = f"tensor '{one_line(name, 80)}'"
    (dimensions,) = header.take(_U32)
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise ModelError(f"{shown} has {dimensions:,} dimensions: allowed: 1 to {_MAX_DIMENSIONS}")
    sizes = header.take(Layout(f"<{dimensions}Q"))
    number, offset = header.take(_TYPE_AND_OFFSET)
    kind = GGML_TYPES.get(number)
    if kind is None:
        known = ", ".join(one.name for one in GGML_TYPES.values())
        raise ModelError(
            f"{shown} has type number {number:,}, which is not known: allowed: {known}"
        )
    if 0 in sizes or max(sizes) > MAX_ITEMS or sizes[0] % kind.values:
        raise ModelError(
            f"{shown} has sizes {sizes}: allowed are 1 to {MAX_ITEMS:,}, the first a multiple of "
            f"{kind.values} for {kind.name}"
        )
    size_bytes = prod(sizes) // kind.values * kind.size_bytes
    # GGUF lists the sizes from the innermost on, Hugging Face from the outermost.
    return offset, TensorInfo(name, kind.name, tuple(reversed(sizes)), size_bytes)


def _data_start(metadata: dict[str, Any], header_end: int) -> int:
    key: Literal["general.alignment"] = "general.alignment"
    alignment = metadata.get(key, 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= _MAX_ALIGNMENT:
        raise ModelError(
            f"{key} is {one_line(str(alignment), 40)}: allowed are whole numbers from 1 to "
            f"{_MAX_ALIGNMENT:,}"
        )
    return -(-header_end // alignment) * alignment


def _check_places(places: list[tuple[int, TensorInfo]], data_bytes: int) -> None:
    ordered = sorted(places, key=lambda place: (place[0], place[1].size_bytes))
    for (begin, before), (after_begin, after) in pairwise(ordered):
        if begin + before.size_bytes > after_begin:
            raise ModelError(
                f"tensor '{one_line(after.name, 80)}' begins at byte {after_begin:,} of the data, "
                f"within tensor '{one_line(before.name, 80)}'"
            )
    if ordered:
        begin, last = ordered[-1]
        if begin + last.size_bytes > data_bytes:
            raise ModelError(
                f"it has {max(data_bytes, 0):,} bytes of data, its header lists "
                f"{begin + last.size_bytes:,}: it is cut off, or not downloaded to the end"
            )
