"""Reads a GGUF header from front to back, a piece of the file at a time."""

from struct import Struct as Layout
from typing import Any

from muai_core.model.architecture import ModelError
from muai_core.model_files.reading import OpenFile
from muai_core.planning.architecture_values import MAX_LAYERS

HEADER_MAX_BYTES = 100_000_000
#: Of one list, or of one dimension.
MAX_ITEMS = 2**31
_FIRST_READ_BYTES = 2**20
_NAME_MAX_BYTES = 65_535
#: Longer texts (chat templates) say nothing about sizes.
_TEXT_MAX_BYTES = 1024

_SCALARS = {
    kind: Layout(f"<{letter}")
    for kind, letter in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_STRING, _ARRAY = 8, 9
_LENGTH = Layout("<Q")
_U32 = Layout("<I")
_ARRAY_START = Layout("<IQ")


class GgufHeader:
    """What is read so far, and how far it is understood."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._data = bytearray()
        self.at = 0

    def take(self, layout: Layout) -> tuple[Any, ...]:
        self._need(layout.size)
        found = layout.unpack_from(self._data, self.at)
        self.at += layout.size
        return found

    def name(self, what: str) -> str:
        """A string that has to be text. Raises ModelError."""
        (length,) = self.take(_LENGTH)
        if length > _NAME_MAX_BYTES:
            raise ModelError(f"{what} has {length:,} bytes: allowed are {_NAME_MAX_BYTES:,}")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError:
            raise ModelError(f"{what} at byte {self.at - length:,} is not UTF-8 text") from None

    def value(self) -> Any:
        """The next value: a scalar, a short text, a tuple of numbers; None for what is longer."""
        (kind,) = self.take(_U32)
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        return self.take(self._scalar(kind))[0]

    def _text(self) -> str | None:
        (length,) = self.take(_LENGTH)
        if length > _TEXT_MAX_BYTES:
            self._skip(length)
            return None
        return self._bytes(length).decode("utf-8", "replace")

    def _array(self) -> tuple[Any, ...] | None:
        kind, count = self.take(_ARRAY_START)
        if kind == _STRING:
            self._skip_strings(count)
            return None
        layout = self._scalar(kind)
        if count > MAX_LAYERS:
            self._skip(count * layout.size)
            return None
        letter = layout.format[-1]
        return self.take(Layout(f"<{count}{letter}"))

    def _scalar(self, kind: int) -> Layout:
        layout = _SCALARS.get(kind)
        if layout is None:
            # As in llama.cpp, there are no lists of lists.
            known = ", ".join(str(one) for one in sorted((*_SCALARS, _STRING)))
            raise ModelError(f"a value at byte {self.at:,} has type {kind:,}: allowed: {known}")
        return layout

    def _skip_strings(self, count: int) -> None:
        """The hot loop: vocabularies have hundreds of thousands of them."""
        unpack = _LENGTH.unpack_from
        data, at = self._data, self.at
        filled = len(data) - 8
        while count:
            if at > filled:
                self.at = at
                self._need(8)
                filled = len(data) - 8
            at += 8 + unpack(data, at)[0]
            count -= 1
        self.at = at
        self._need(0)

    def _skip(self, length: int) -> None:
        self.at += length
        self._need(0)

    def _bytes(self, length: int) -> bytes:
        self._need(length)
        found = bytes(self._data[self.at : self.at + length])
        self.at += length
        return found

    def _need(self, count: int) -> None:
        """Raises ModelError when the file ends before."""
        end = self.at + count
        if end <= len(self._data):
            return
        if end > self._file.size_bytes:
            raise ModelError(
                f"it ends within its header, at byte {self._file.size_bytes:,}: it is cut off, or "
                "not downloaded to the end"
            )
        if end > HEADER_MAX_BYTES:
            raise ModelError(f"its header has more than {HEADER_MAX_BYTES:,} bytes")
        wanted = max(end, 2 * len(self._data), _FIRST_READ_BYTES)
        self._data += self._file.read(len(self._data), wanted - len(self._data))
        if end > len(self._data):
            raise ModelError(f"it became shorter while it was read: {len(self._data):,} bytes")
