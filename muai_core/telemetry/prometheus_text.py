"""Prometheus' text format, read strictly, in time proportional to the text's length.

Format: https://prometheus.io/docs/instrumenting/exposition_formats (0.0.4).
"""

import re
from collections.abc import Iterable
from typing import Literal, cast, get_args

from msgspec import Struct

TextKind = Literal["counter", "gauge", "histogram", "summary", "untyped"]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_SAMPLE = re.compile(
    rf"({_NAME})[ \t]*(?:\{{((?:[^\"}}]|{_QUOTED})*)\}})?[ \t]*([^ \t]{{1,64}})"
    r"(?:[ \t]+-?[0-9]{1,19})?[ \t]*"
)
_LABEL = re.compile(rf"[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*({_QUOTED})[ \t]*(?:,|$)")
_COMMENT = re.compile(rf"#[ \t]+(HELP|TYPE)[ \t]+({_NAME})(?:[ \t]+(.*))?")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "\\": "\\", '"': '"'}
#: Endings of the samples of kinds that have several.
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


class Sample(Struct, frozen=True, gc=False):
    """One line; labels in the order of their names."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class TextFamily(Struct, frozen=True):
    """All samples of one metric. `name` is as the text has it: that of a counter with `_total`."""

    name: str
    kind: TextKind
    help: str
    samples: tuple[Sample, ...]


class _Open(Struct):
    kind: TextKind | None = None
    help: str | None = None
    samples: list[Sample] = []


def parse(text: str) -> tuple[TextFamily, ...]:
    """The families in order. Raises ValueError with the number of the line that is none."""
    families: dict[str, _Open] = {}
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip(" \t\r")
        if content.startswith("#"):
            if not _comment(content, families):
                raise ValueError(f"line {number}: a second HELP or TYPE, or an unknown type")
        elif content:
            sample = _sample(content)
            if sample is None:
                raise ValueError(f"line {number} is no sample")
            families.setdefault(_family_of(sample.name, families), _Open()).samples.append(sample)
    return tuple(
        TextFamily(name, one.kind or "untyped", one.help or "", tuple(one.samples))
        for name, one in families.items()
        if one.samples
    )


def total(families: Iterable[TextFamily], series: str) -> float | None:
    """The sum of the samples with this name, over all labels; None: there are none."""
    found = [one.value for family in families for one in family.samples if one.name == series]
    return sum(found) if found else None


def _comment(content: str, families: dict[str, _Open]) -> bool:
    """Take a HELP or TYPE; other comments say nothing. False: it may not stand here."""
    found = _COMMENT.fullmatch(content)
    if found is None:
        return True
    rest = found[3] or ""
    family = families.setdefault(found[2], _Open())
    if found[1] == "HELP":
        is_first, family.help = family.help is None, _unescaped(rest)
        return is_first
    if family.kind is not None or family.samples or rest not in get_args(TextKind):
        return False
    family.kind = cast(TextKind, rest)
    return True


def _family_of(name: str, families: dict[str, _Open]) -> str:
    if name in families:
        return name
    for kind, endings in _PARTS.items():
        for ending in endings:
            base = families.get(name.removesuffix(ending)) if name.endswith(ending) else None
            if base is not None and base.kind == kind:
                return name.removesuffix(ending)
    return name


def _sample(content: str) -> Sample | None:
    found = _SAMPLE.fullmatch(content)
    if found is None or "_" in found[3]:  # which Python takes for a separator of digits
        return None
    labels: dict[str, str] = {}
    text, place = (found[2] or "").rstrip(" \t"), 0
    while place < len(text):
        label = _LABEL.match(text, place)
        if label is None or label[1] in labels:
            return None
        labels[label[1]] = _unescaped(label[2][1:-1])
        place = label.end()
    try:
        return Sample(found[1], tuple(sorted(labels.items())), float(found[3]))
    except ValueError:
        return None


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda one: _ESCAPES.get(one[1], one[0]), text) if "\\" in text else text
