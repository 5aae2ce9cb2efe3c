"""Headers of safetensors files: https://github.com/huggingface/safetensors (README, "Format").

8 bytes with the length of a JSON object, which lists each tensor's dtype, shape and place in the
rest of the file. The places cover the rest without a gap or an overlap.
"""

from itertools import pairwise
from math import prod
from typing import Annotated

import msgspec

from muai_core.model.architecture import ModelError, TensorInfo
from muai_core.model_files.reading import OpenFile
from muai_core.planning.formats import STORED_BITS
from muai_core.planning.wording import one_line

#: The format's own limit.
HEADER_MAX_BYTES = 100_000_000
MAX_TENSORS = 2**19
_METADATA = "__metadata__"
_MAX_DIMENSIONS = 16
#: Bytes of one field of an entry, as JSON: a shape or a pair of offsets.
_MAX_FIELD_BYTES = 1024

_Whole = Annotated[int, msgspec.Meta(ge=0)]


class _Entry(msgspec.Struct, frozen=True):
    # Raw, so that the metadata, which is an object of any texts, is one, too.
    dtype: msgspec.Raw = msgspec.Raw()
    shape: msgspec.Raw = msgspec.Raw()
    data_offsets: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(dict[str, _Entry])
_DTYPE_DECODER = msgspec.json.Decoder(str)
_SHAPE_DECODER = msgspec.json.Decoder(list[_Whole])
_OFFSETS_DECODER = msgspec.json.Decoder(tuple[_Whole, _Whole])


def read_safetensors(file: OpenFile) -> tuple[TensorInfo, ...]:
    """Its tensors in the order of their data. Raises ModelError, without the path."""
    start = file.read(0, 8)
    if len(start) < 8:
        raise ModelError(
            f"it has {len(start)} bytes: a safetensors file begins with the 8-byte length of its "
            "header"
        )
    length = int.from_bytes(start, "little")
    if not 2 <= length <= HEADER_MAX_BYTES:
        raise ModelError(
            f"its header has {length:,} bytes by its own words: allowed are 2 to "
            f"{HEADER_MAX_BYTES:,}; it is no safetensors file"
        )
    header = file.read(8, length)
    if len(header) < length:
        raise ModelError(
            f"it ends within its header, at byte {file.size_bytes:,} of {8 + length:,}: it is cut "
            "off, or not downloaded to the end"
        )
    return _checked(_entries(header), file.size_bytes - 8 - length)


def _entries(header: bytes) -> dict[str, _Entry]:
    if header.count(b"{") > MAX_TENSORS:
        raise ModelError(f"its header has too many entries: allowed are {MAX_TENSORS:,}")
    try:
        entries = _DECODER.decode(header)
    except RecursionError:
        raise ModelError("its header's JSON is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = one_line(str(error), 120)
        raise ModelError(f"its header is not an object of tensors in JSON ({reason})") from None
    if header.count(b'"data_offsets"') > len(entries):
        raise ModelError("its header lists a tensor twice")
    entries.pop(_METADATA, None)
    return entries


def _checked(entries: dict[str, _Entry], data_bytes: int) -> tuple[TensorInfo, ...]:
    """Tensors that cover the data exactly."""
    places = []
    for name, entry in entries.items():
        begin, end, tensor = _tensor(name, entry)
        places.append((begin, end, tensor))
    places.sort(key=lambda place: place[:2])
    if places and places[0][0] != 0:
        raise ModelError(f"{_shown(places[0][2])} begins at byte {places[0][0]:,}: needed is 0")
    for (_, end, before), (begin, _, after) in pairwise(places):
        if begin != end:
            what = "overlaps" if begin < end else "leaves a gap after"
            raise ModelError(
                f"{_shown(after)} begins at byte {begin:,} and {what} {_shown(before)}, which ends "
                f"at {end:,}"
            )
    needed = places[-1][1] if places else 0
    if needed > data_bytes:
        raise ModelError(
            f"it has {data_bytes:,} bytes of data, its header lists {needed:,}: it is cut off, or "
            "not downloaded to the end"
        )
    if needed < data_bytes:
        raise ModelError(f"it has {data_bytes:,} bytes of data, its header lists only {needed:,}")
    return tuple(place[2] for place in places)


def _tensor(name: str, entry: _Entry) -> tuple[int, int, TensorInfo]:
    shown = f"tensor '{one_line(name, 80)}'"
    if max(len(bytes(field)) for field in (entry.dtype, entry.shape, entry.data_offsets)) > (
        _MAX_FIELD_BYTES
    ):
        raise ModelError(f"{shown} has a field of more than {_MAX_FIELD_BYTES:,} bytes")
    try:
        dtype = _DTYPE_DECODER.decode(entry.dtype)
        shape = _SHAPE_DECODER.decode(entry.shape)
        begin, end = _OFFSETS_DECODER.decode(entry.data_offsets)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ModelError(
            f"{shown} needs a dtype, a shape and two data_offsets, whole numbers from 0"
        ) from None
    bits = STORED_BITS.get(dtype)
    if bits is None:
        known = ", ".join(STORED_BITS)
        raise ModelError(f"{shown} has dtype '{one_line(dtype, 40)}': allowed: {known}")
    if len(shape) > _MAX_DIMENSIONS:
        raise ModelError(f"{shown} has {len(shape)} dimensions: allowed are {_MAX_DIMENSIONS}")
    needed_bits = prod(shape) * bits
    if end < begin or needed_bits != 8 * (end - begin):
        raise ModelError(
            f"{shown} of shape {shape} and dtype {dtype} needs {needed_bits // 8:,} bytes, but has "
            f"bytes {begin:,} to {end:,}"
        )
    return begin, end, TensorInfo(name, dtype, tuple(shape), end - begin)


def _shown(tensor: TensorInfo) -> str:
    return f"tensor '{one_line(tensor.name, 80)}'"
