"""YAML text to a tree of nodes, under limits, with every mistake placed on its line.

The scalar rules are YAML 1.2's core schema, which differs from PyYAML's own (1.1) where people
get hurt: `yes`, `no`, `on`, `off` are text, `010` is ten, `1:30` is text, dates are text.
PyYAML supplies the scanner and parser only; composing is done here because a bounded depth, a
bounded number of nodes and duplicate keys need to be seen while the text is read.
"""

import re
from collections.abc import Callable, Iterator

import yaml
from yaml import events as ev

from muai_core.config.errors import ConfigError, Origin, Problem
from muai_core.config.tree import Node, Path, Scalar, dotted

NODES_MAX = 20_000
DEPTH_MAX = 32
DIGITS_MAX = 18

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}
_TAG = "tag:yaml.org,2002:"
_SURROGATE = re.compile("[\ud800-\udfff]")
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)")
_NAN = re.compile(r"\.nan|\.NaN|\.NAN")


class _ScalarError(ValueError):
    """A scalar that its tag or its size forbids; the text is the message for the user."""


def parse_yaml(text: str, origin_at: Callable[[int], Origin], root: Path = ()) -> Node:
    """`text` as a tree; `origin_at(line)` names the place of a line counted from 1.

    An empty document is a null node. Raises ConfigError with every mistake found; a syntax error
    ends the reading, so it is the last one reported.
    """
    composer = _Composer(text, origin_at)
    try:
        node = composer.document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        composer.report(mark.line + 1 if mark else 0, (), _syntax_message(error, text))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"character U+{code:04X} is not allowed in YAML"
        composer.report(line, (), message)
    except (ValueError, OverflowError):
        # PyYAML turns escapes such as "\UFFFFFFFF" into characters without a range check.
        composer.report(composer.line, (), "not YAML: an escape names no character")
    except _StopReadingError:
        pass
    if composer.problems:
        raise ConfigError(composer.problems)
    return node


class _StopReadingError(Exception):
    """A limit was passed; the problem is already recorded."""


class _Composer:
    """Builds nodes from parser events; depth and node count are checked before each step down."""

    def __init__(self, text: str, origin_at: Callable[[int], Origin]) -> None:
        self.problems: list[Problem] = []
        self.line = 1
        self._origin_at = origin_at
        self._events: Iterator[ev.Event] = self._parse(text)
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0

    def _parse(self, text: str) -> Iterator[ev.Event]:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            self.line = _line(event)
            yield event

    def report(self, line: int, path: Path, message: str) -> None:
        self.problems.append(Problem(self._origin_at(line), dotted(path), message))

    def stop(self, line: int, path: Path, message: str) -> _StopReadingError:
        self.report(line, path, message)
        return _StopReadingError()

    def document(self, root: Path) -> Node:
        next(self._events)  # StreamStart
        event = next(self._events)
        if isinstance(event, ev.StreamEndEvent):
            return Node(None, self._origin_at(1))
        node = self._node(next(self._events), root, 0)
        next(self._events)  # DocumentEnd
        event = next(self._events)
        if not isinstance(event, ev.StreamEndEvent):
            message = "a second YAML document begins here; one file holds one document"
            raise self.stop(_line(event), (), message)
        return node

    def _node(self, event: ev.Event, path: Path, depth: int) -> Node:
        line = _line(event)
        if depth > DEPTH_MAX:
            # The path of something this deep says nothing and fills the screen.
            raise self.stop(line, path[:2], f"nested more than {DEPTH_MAX} levels deep")
        if isinstance(event, ev.AliasEvent):
            return self._alias(str(event.anchor), line, path)
        before = self._nodes
        self._count(1, line)
        node = Node(None, self._origin_at(line))
        if isinstance(event, ev.ScalarEvent):
            node.value = self._scalar(event, line, path)
        elif isinstance(event, ev.SequenceStartEvent):
            self._check_tag(event.tag, "seq", line, path)
            node.value = self._sequence(path, depth)
        elif isinstance(event, ev.MappingStartEvent):
            self._check_tag(event.tag, "map", line, path)
            node.value = self._mapping(path, depth)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = (node, self._nodes - before)
        return node

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            message = f"more than {NODES_MAX:,} values, with every alias (*name) written out"
            raise self.stop(line, (), message)

    def _alias(self, name: str, line: int, path: Path) -> Node:
        if name not in self._anchors:
            self.report(line, path, f"alias *{name} has no finished anchor &{name} above it")
            return Node(None, self._origin_at(line))
        node, size = self._anchors[name]
        self._count(size, line)
        return node.copy()

    def _sequence(self, path: Path, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), ev.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(self._events), ev.MappingEndEvent):
            line = _line(event)
            key = self._key(event, path, depth)
            value = self._node(next(self._events), (*path, key), depth + 1)
            value.origin = self._origin_at(line)
            if key == "<<" and isinstance(event, ev.ScalarEvent) and event.implicit[0]:
                self._merge(value, merged, line, path)
            elif key in members:
                first = members[key].origin.line
                self.report(line, (*path, key), f"given twice; the first is on line {first}")
            else:
                members[key] = value
        return {**merged, **members}

    def _merge(self, value: Node, merged: dict[str, Node], line: int, path: Path) -> None:
        sources = value.value if isinstance(value.value, list) else [value]
        for source in sources:
            if not isinstance(source.value, dict):
                self.report(line, (*path, "<<"), "only a mapping, or a list of them, can be merged")
                continue
            for key, node in source.value.items():
                merged.setdefault(key, node)

    def _key(self, event: ev.Event, path: Path, depth: int) -> str:
        line = _line(event)
        if isinstance(event, ev.ScalarEvent):
            self._count(1, line)
            self._check_characters(event, line, path)
            if not event.value:
                self.report(line, path, "a key is empty")
            return str(event.value)
        self.report(line, path, "a key has to be plain text")
        if not isinstance(event, ev.AliasEvent):
            self._node(event, path, depth + 1)
        return ""

    def _scalar(self, event: ev.ScalarEvent, line: int, path: Path) -> Scalar:
        self._check_characters(event, line, path)
        try:
            return _resolve(event)
        except _ScalarError as error:
            self.report(line, path, str(error))
            return None

    def _check_characters(self, event: ev.ScalarEvent, line: int, path: Path) -> None:
        # An escape such as "\uD800" makes text that no file and no terminal can hold.
        if _SURROGATE.search(event.value):
            self.report(line, path, "the text holds half a character (a surrogate)")

    def _check_tag(self, tag: str | None, expected: str, line: int, path: Path) -> None:
        if tag not in (None, "!", _TAG + expected):
            self.report(line, path, f"the tag {_short(tag)} is not supported")


def _resolve(event: ev.ScalarEvent) -> Scalar:
    """The scalar's value by YAML 1.2's core schema (section 10.3.2)."""
    text = str(event.value)
    if event.tag is None:
        return core_schema(text) if event.implicit[0] else text
    if event.tag == "!":
        return text
    kind = event.tag.removeprefix(_TAG)
    if kind == "str":
        return text
    wanted = _TYPES.get(kind)
    if wanted is None:
        raise _ScalarError(f"the tag {_short(event.tag)} is not supported")
    value = core_schema(text)
    if not isinstance(value, wanted) or (kind != "bool" and isinstance(value, bool)):
        raise _ScalarError(f"{text!r} is not of the type that its tag {_short(event.tag)} says")
    return float(value) if kind == "float" and isinstance(value, int) else value


def core_schema(text: str) -> Scalar:
    """A plain (unquoted) scalar's value. Raises ValueError for a number out of all proportion."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        if len(text.lstrip("+-")) > DIGITS_MAX:
            raise _ScalarError(f"a number of more than {DIGITS_MAX} digits")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text) or _INF.fullmatch(text) or _NAN.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _line(event: ev.Event) -> int:
    return 0 if event.start_mark is None else event.start_mark.line + 1


def _short(tag: str | None) -> str:
    text = (tag or "").replace(_TAG, "!!")
    return text if len(text) <= 40 else text[:37] + "..."


def _syntax_message(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = str(error.problem or "").replace("<", "").replace(">", "")
    mark = error.problem_mark
    row = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "'\\t'" in problem or row[: mark.column + 1 if mark else 0].strip(" ").startswith("\t"):
        return "a tab cannot indent YAML; use spaces"
    context = f"; {error.context}" if error.context else ""
    if error.context_mark and error.context and mark and error.context_mark.line != mark.line:
        context += f" that begins on line {error.context_mark.line + 1}"
    return f"not YAML: {problem}{context}"
