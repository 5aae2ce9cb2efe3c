"""The numbers, flags and texts of a config.json, flat: what only some families have. Pure."""

from collections.abc import Mapping
from typing import Any

from muai_core.model.architecture import Architecture, ModelError, Setting

_MAX_DEPTH = 5
_MAX_SETTINGS = 4096
_MAX_CHARACTERS = 1024
_MAX_ITEMS = 10_000
#: Where a wrapper of several towers keeps the config of its language model.
_TEXT_SECTIONS = (
    "thinker_config.text_config.",
    "text_config.",
    "llm_config.",
    "language_config.",
    "",
)
_MAX_SIZE = 2**24
_MAX_FACTOR = 100


def settings_of(config: Mapping[str, Any]) -> tuple[tuple[str, Setting], ...]:
    """Every scalar and list of whole numbers of a config, nested ones with dots in their names.

    What is too long, too deep or of another kind is left out. Never raises.
    """
    found: list[tuple[str, Setting]] = []
    _collect(config, "", _MAX_DEPTH, found)
    return tuple(found)


def _collect(
    section: Mapping[str, Any], where: str, depth: int, found: list[tuple[str, Setting]]
) -> None:
    for name, value in section.items():
        if len(found) >= _MAX_SETTINGS:
            return
        if not isinstance(name, str) or len(name) > _MAX_CHARACTERS:
            continue
        if isinstance(value, Mapping):
            if depth > 1:
                _collect(value, f"{where}{name}.", depth - 1, found)
        elif isinstance(value, list | tuple):
            if len(value) <= _MAX_ITEMS and all(_is_whole(item) for item in value):
                found.append((where + name, tuple(int(item) for item in value)))
        elif _is_scalar(value):
            found.append((where + name, value))


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_CHARACTERS
    return _is_whole(value) or isinstance(value, float)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 2**63


class Facts:
    """An architecture with the settings of its family; raises ModelError for an absurd one."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._settings = dict(architecture.settings)

    def _value(self, names: tuple[str, ...]) -> tuple[str, Setting | None]:
        for name in names:
            for section in _TEXT_SECTIONS:
                value = self._settings.get(section + name)
                if value is not None:
                    return section + name, value
        return names[0], None

    def whole(self, *names: str, default: int, least: int = 0, most: int = _MAX_SIZE) -> int:
        """The first of these settings that there is; of the language model before its wrapper."""
        name, value = self._value(names)
        if value is None or isinstance(value, str | tuple):
            return default
        if not least <= value <= most:
            raise ModelError(
                f"{name} is {value}: allowed are whole numbers from {least:,} to {most:,}"
            )
        return int(value)

    def scaled(self, name: str, size: int) -> int:
        """The size times this setting, rounded down; the size itself when it is not set."""
        _, value = self._value((name,))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return size
        if not 0 < value <= _MAX_FACTOR:
            raise ModelError(f"{name} is {value}: allowed are numbers up to {_MAX_FACTOR}")
        return int(value * size)

    def flag(self, name: str, *, default: bool) -> bool:
        _, value = self._value((name,))
        return value if isinstance(value, bool) else default

    def word(self, name: str) -> str:
        """A text, empty when there is none."""
        _, value = self._value((name,))
        return value if isinstance(value, str) else ""

    def wholes(self, name: str) -> tuple[int, ...]:
        _, value = self._value((name,))
        return value if isinstance(value, tuple) else ()

    def has(self, name: str) -> bool:
        return self._value((name,))[1] is not None

    @property
    def wrapped(self) -> bool:
        """Whether the language model's config is inside that of a wrapper."""
        return any(name.startswith(_TEXT_SECTIONS[:-1]) for name in self._settings)

    @property
    def wrapper(self) -> str:
        """`model_type` of the whole config; of the language model when nothing wraps it."""
        value = self._settings.get("model_type")
        return value if isinstance(value, str) else self.architecture.model_type
