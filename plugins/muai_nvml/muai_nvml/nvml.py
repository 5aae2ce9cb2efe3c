"""Calls into NVML, only inside a probe process: which call runs, and what its failure means.

pynvml is imported when NVML is started. A function that this pynvml or this driver does not have
counts as FUNCTION_NOT_FOUND.
"""

import math
import time
from collections.abc import Callable
from typing import Any

from muai_nvml.return_codes import BROKEN, FUNCTION_NOT_FOUND, UNKNOWN
from muai_nvml.wire import Failure

#: nvml.h, NVML_VALUE_NOT_AVAILABLE: -1, in 32 or in 64 bits without a sign.
_NOT_AVAILABLE = (2**32 - 1, 2**64 - 1)


class NvmlFailure(Exception):
    """An NVML call failed."""

    def __init__(self, code: int, call: str) -> None:
        super().__init__(f"{call} answered {code}")
        self.code = code
        self.call = call

    @property
    def record(self) -> Failure:
        return Failure(self.code, self.call)


class Nvml:
    """The library, started."""

    def __init__(self) -> None:
        """Blocks for as long as the driver pleases. Raises NvmlFailure."""
        import pynvml  # type: ignore[import-untyped]

        self.module = pynvml
        self._functions: dict[str, Callable[..., Any]] = {}
        self.call("nvmlInit")

    def call(self, name: str, *arguments: Any) -> Any:
        """Raises NvmlFailure, whatever went wrong."""
        function = self._functions.get(name)
        if function is None:
            found = getattr(self.module, name, None)
            if found is None:
                raise NvmlFailure(FUNCTION_NOT_FOUND, name)
            function = self._functions[name] = found
        try:
            return function(*arguments)
        except self.module.NVMLError as error:
            raise NvmlFailure(int(error.value), name) from error
        except Exception as error:
            # A text that is no UTF-8, a struct that this pynvml does not know.
            raise NvmlFailure(UNKNOWN, f"{name} ({error!r})") from error


class Visit:
    """One look at one GPU. Another thread may read which call it is in, and since when."""

    def __init__(self, nvml: Nvml, index: int) -> None:
        self.nvml = nvml
        self.index = index
        self.call = "nothing yet"
        self.began_at_s = time.monotonic()

    def need(self, name: str, *arguments: Any) -> Any:
        """A call without which nothing can be said. Raises NvmlFailure."""
        self.call = name
        return self.nvml.call(name, *arguments)

    def get(self, name: str, *arguments: Any) -> Any:
        """A value that may be absent: None then. Raises NvmlFailure when the GPU is broken."""
        self.call = name
        try:
            value = self.nvml.call(name, *arguments)
            return None if isinstance(value, int) and value in _NOT_AVAILABLE else value
        except NvmlFailure as failure:
            if failure.code in BROKEN:
                raise
            return None

    def beside(self, name: str, *arguments: Any) -> Any:
        """A value that is not about this GPU alone: None on any failure."""
        self.call = name
        try:
            return self.nvml.call(name, *arguments)
        except NvmlFailure:
            return None

    def first(self, *calls: tuple[Any, ...]) -> Any:
        """The first of several calls that gives a value. Raises as `get` does."""
        for name, *arguments in calls:
            value = self.get(name, *arguments)
            if value is not None:
                return value
        return None

    def fields(self, handle: Any, ids: list[int]) -> dict[int, float]:
        """Those of the field values that this GPU has. Raises as `get` does.

        A field's own return code is judged like that of any other value.
        """
        answers = self.get("nvmlDeviceGetFieldValues", handle, ids)
        values: dict[int, float] = {}
        for answer in answers if answers is not None else ():
            code = int(answer.nvmlReturn)
            if code == 0:
                value = _field_value(answer)
                if math.isfinite(value):
                    values[int(answer.fieldId)] = value
            elif code in BROKEN:
                raise NvmlFailure(code, f"nvmlDeviceGetFieldValues (field {answer.fieldId})")
        return values


#: nvml.h, nvmlValueType_t, in the order of its numbers; members of nvmlValue_t as pynvml has them.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def _field_value(answer: Any) -> float:
    member = _MEMBERS[answer.valueType] if answer.valueType < len(_MEMBERS) else "ullVal"
    value: float = getattr(answer.value, member, answer.value.ullVal)
    return value


def text(value: Any) -> str | None:
    """pynvml gives text or bytes, depending on its version. None and empty: None."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return str(value).strip("\0 ") or None if value is not None else None
