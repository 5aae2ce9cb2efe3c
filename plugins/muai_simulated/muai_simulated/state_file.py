"""Device faults from a file that people and tests edit while MuAI runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from muai_core.model.device import Device

if TYPE_CHECKING:
    from pydantic import ValidationError

    from muai_simulated.config import DeviceState

_MAX_BYTES = 4 * 2**20


class StateFileError(ValueError):
    """The state file cannot be read; the text says where, what and what is allowed."""


class DeviceStates:
    """The state file's content as of the last `read`, by device UUID."""

    def __init__(self, path: Path, devices: tuple[Device, ...]) -> None:
        self._path = path
        self._uuid_of = _selectors(devices)
        #: One object, because two threads may read at the same time.
        self._known: tuple[bytes, Mapping[str, DeviceState]] | None = None

    def read(self) -> "Mapping[str, DeviceState]":
        """Read the file, from any thread; a missing one means no faults. Raises StateFileError.

        A file that cannot be understood is an error at every read until it is repaired.
        """
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            text = b""
        except OSError as error:
            raise StateFileError(f"{self._path}: {error.strerror}") from None
        known = self._known
        if known is None or known[0] != text:
            # Forgotten first: a broken text must not pass as the one before it.
            self._known = None
            self._known = known = (text, self._parse(text))
        return known[1]

    def _parse(self, text: bytes) -> "dict[str, DeviceState]":
        import yaml
        from pydantic import ValidationError

        from muai_simulated.config import StateFile

        if len(text) > _MAX_BYTES:
            raise StateFileError(f"{self._path}: longer than {_MAX_BYTES} bytes")
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StateFileError(f"{self._path}: not valid YAML: {_one_line(error)}") from None
        try:
            file = StateFile.model_validate({} if content is None else content)
        except ValidationError as error:
            raise StateFileError(f"{self._path}: {_complaints(error)}") from None
        return {self._resolve(selector): state for selector, state in file.devices.items()}

    def _resolve(self, selector: str | int) -> str:
        uuid = self._uuid_of.get(str(selector))
        if uuid is None:
            raise StateFileError(
                f"{self._path}: devices.{selector}: no such device; name it by UUID, by node/index "
                "or, where there is one node only, by index"
            )
        return uuid


def _selectors(devices: tuple[Device, ...]) -> dict[str, str]:
    """Every way to name a device, with its UUID."""
    selectors = {device.uuid: device.uuid for device in devices}
    selectors |= {f"{device.node}/{device.index}": device.uuid for device in devices}
    if len({device.node for device in devices}) == 1:
        selectors |= {str(device.index): device.uuid for device in devices}
    return selectors


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _complaints(error: "ValidationError") -> str:
    from muai_simulated.config import DeviceState

    texts = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        what = problem["msg"]
        if problem["type"] == "extra_forbidden":
            known = DeviceState.model_fields if len(problem["loc"]) > 1 else ("devices",)
            what = f"unknown key; allowed: {', '.join(known)}"
        texts.append(f"{where}: {what}")
    return "; ".join(texts)
