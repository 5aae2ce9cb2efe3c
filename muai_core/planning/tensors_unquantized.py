"""Which modules a checkpoint leaves unquantised, from its list of names and patterns. Pure.

Three ways of writing are told apart: `re:` and a regular expression (compressed-tensors, matched
from the start of the name), a name with `*` (ModelOpt, mxfp4), and a name or part of a name, whole
components (transformers, vLLM: `should_convert_module`, `is_layer_skipped`).
"""

import re
from re import Pattern

from muai_core.model.architecture import ModelError

#: A pattern may not cost more than a few thousand steps for one name.
_MAX_REPEATS = 4
_MAX_CHARACTERS = 1024
_REPEAT = re.compile(r"(?<!\\)[*+]|(?<!\\)\{\d*,\d*\}")
_REPEATED_GROUP = re.compile(r"(?<!\\)\)(?:[*+]|\{)")
_BACK_REFERENCE = re.compile(r"\\[1-9]|\(\?P=")


class UnquantizedModules:
    """A set of modules; raises ModelError for a pattern that cannot be read or costs too much."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._patterns = [_pattern(entry) for entry in entries if entry.startswith("re:")]
        wildcards = [entry for entry in entries if "*" in entry and not entry.startswith("re:")]
        self._patterns += [_wildcard(entry) for entry in wildcards]
        self._names = frozenset(
            entry.strip(".")
            for entry in entries
            if not entry.startswith("re:") and "*" not in entry
        )

    def __contains__(self, module: str) -> bool:
        components = module.split(".")
        count = len(components)
        for start in range(count if self._names else 0):
            for end in range(start + 1, count + 1):
                if ".".join(components[start:end]) in self._names:
                    return True
        return any(pattern.match(module) for pattern in self._patterns)


def _pattern(entry: str) -> Pattern[str]:
    text = entry.removeprefix("re:")
    # A repeat right after the same one matches nothing more.
    text = re.sub(r"(\.\*){2,}", ".*", text)
    costly = (
        len(text) > _MAX_CHARACTERS
        or len(_REPEAT.findall(text)) > _MAX_REPEATS
        or _REPEATED_GROUP.search(text)
        or _BACK_REFERENCE.search(text)
    )
    if costly:
        raise ModelError(
            f"quantization_config: pattern {entry[:80]} is not understood: allowed are at most "
            f"{_MAX_REPEATS} repeats and no repeated group"
        )
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ModelError(
            f"quantization_config: pattern {entry[:80]} is no regular expression: {error}"
        ) from None


def _wildcard(entry: str) -> Pattern[str]:
    """A name with `*`, anywhere in the module's name, its ends at the ends of components."""
    pieces = [re.escape(piece) for piece in re.sub(r"\*+", "*", entry).split("*")]
    if len(pieces) > _MAX_REPEATS + 1 or len(entry) > _MAX_CHARACTERS:
        raise ModelError(
            f"quantization_config: pattern {entry[:80]} is not understood: allowed are at most "
            f"{_MAX_REPEATS} `*`"
        )
    return re.compile(rf"(?:|.*\.){'.*'.join(pieces)}(?:\.|$)")
