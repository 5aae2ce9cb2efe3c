"""Values of a model's config, checked: every number has a range, every list a length."""

from collections.abc import Mapping, Sequence
from typing import Any

from muai_core.model.architecture import ModelError
from muai_core.planning.wording import one_line

#: Far beyond every model there is, and small enough that no table of a model gets large.
MAX_LAYERS = 10_000
MAX_SIZE = 2**20
MAX_FEED_FORWARD = 2**24
MAX_VOCABULARY = 2**24
MAX_HEADS = 2**14
MAX_EXPERTS = 2**14
MAX_TOKENS = 2**40
MAX_STATE_VALUES = 2**40
MAX_NAMES = 2**17
MAX_NAME_CHARACTERS = 1024


class ConfigValues:
    """One JSON object: `values` as written, and what the model's family takes for a missing key.

    A key that is `null` is there and empty: no default is taken for it.
    """

    def __init__(
        self, values: Mapping[str, Any], where: str = "", defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.values = values
        #: In front of a key in messages, as in "text_config.".
        self.where = where
        self.defaults = defaults or {}

    def find(self, *names: str) -> tuple[str, Any]:
        """The first of these keys that says something, and what; None when none does."""
        empty = None
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return name, value
            if empty is None and name in self.values:
                empty = name
        if empty is not None:
            return empty, None
        for name in names:
            if self.defaults.get(name) is not None:
                return name, self.defaults[name]
        return names[0], None

    def whole(self, *names: str, least: int = 1, most: int) -> int | None:
        """A whole number in that range; None when no key says one. Raises ModelError."""
        name, value = self.find(*names)
        if value is None:
            return None
        number = _whole(value)
        if number is None or not least <= number <= most:
            allowed = f"whole numbers from {least:,} to {most:,}"
            raise self.error(name, value, allowed)
        return number

    def required(self, *names: str, least: int = 1, most: int) -> int:
        """Like `whole`, but it must be there. Raises ModelError."""
        number = self.whole(*names, least=least, most=most)
        if number is None:
            others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
            raise ModelError(
                f"{self.where}{names[0]}{others} is missing: needed is a whole number "
                f"from {least:,} to {most:,}"
            )
        return number

    def wholes(self, *names: str, least: int = 0, most: int) -> tuple[int, ...] | None:
        """A list of at most MAX_LAYERS whole numbers; None when no key says one."""
        name, value = self.find(*names)
        if value is None:
            return None
        allowed = f"a list of at most {MAX_LAYERS:,} whole numbers from {least:,} to {most:,}"
        if not isinstance(value, list | tuple) or len(value) > MAX_LAYERS:
            raise self.error(name, value, allowed)
        numbers = []
        for item in value:
            # Lists of layers are also written as lists of yes and no.
            number = int(item) if isinstance(item, bool) else _whole(item)
            if number is None or not least <= number <= most:
                raise self.error(name, item, allowed)
            numbers.append(number)
        return tuple(numbers)

    def largest(self, *names: str, least: int = 1, most: int) -> int | None:
        """Like `whole`; of a list with one number per layer, the largest."""
        if not isinstance(self.find(*names)[1], list | tuple):
            return self.whole(*names, least=least, most=most)
        return max(self.wholes(*names, least=least, most=most) or (), default=None)

    def decimal(self, *names: str, least: float, most: float) -> float | None:
        """A number in that range; None when no key says one."""
        name, value = self.find(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, value, f"numbers from {least:g} to {most:g}")
        if not least <= value <= most:
            raise self.error(name, value, f"numbers from {least:g} to {most:g}")
        return float(value)

    def flag(self, *names: str) -> bool | None:
        name, value = self.find(*names)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(name, value, "true and false")

    def word(self, *names: str) -> str | None:
        name, value = self.find(*names)
        if value is None:
            return None
        if not _is_name(value):
            raise self.error(name, value, f"a line of at most {MAX_NAME_CHARACTERS:,} characters")
        return str(value)

    def words(self, *names: str) -> tuple[str, ...] | None:
        """A list of texts; None when no key says one."""
        name, value = self.find(*names)
        if value is None:
            return None
        allowed = f"a list of at most {MAX_NAMES:,} lines"
        if not isinstance(value, list | tuple) or len(value) > MAX_NAMES:
            raise self.error(name, value, allowed)
        for item in value:
            if not _is_name(item):
                raise self.error(name, item, allowed)
        return tuple(value)

    def section(self, *names: str) -> "ConfigValues | None":
        """An object inside; None when there is none. Raises ModelError for anything else."""
        name, value = self.find(*names)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(name, value, "a JSON object")
        return ConfigValues(value, f"{self.where}{name}.")

    def error(self, name: str, value: object, allowed: str) -> ModelError:
        return ModelError(f"{self.where}{name} is {shown(value)}: allowed: {allowed}")


def shown(value: object) -> str:
    """A foreign value in a few characters."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        # Python refuses to write very long numbers.
        return f"{value}" if value.bit_length() < 128 else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return f"'{one_line(value, 60)}'"
    if isinstance(value, float):
        return f"{value!r}"
    if isinstance(value, Mapping):
        return f"an object of {len(value):,} entries"
    if isinstance(value, Sequence):
        return f"a list of {len(value):,}"
    return f"a {type(value).__name__}"


def _is_name(value: object) -> bool:
    # What cannot be printed cannot be shown, and is no name of anything.
    return isinstance(value, str) and len(value) <= MAX_NAME_CHARACTERS and value.isprintable()


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None
