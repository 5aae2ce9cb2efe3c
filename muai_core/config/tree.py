"""The configuration as a tree whose every value remembers where it was given."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from muai_core.config.errors import Origin

Path = tuple[str | int, ...]
Scalar = None | bool | int | float | str

_BARE_KEY = re.compile(r"[^\s.\"'\[\]=]+")


@dataclass(slots=True)
class Node:
    """One value with its origin; for a member of a mapping that is the line of its key."""

    value: "Scalar | list[Node] | dict[str, Node]"
    origin: Origin

    def plain(self) -> Any:
        """The value without origins, as pydantic wants it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def copy(self) -> "Node":
        if isinstance(self.value, dict):
            return Node({key: node.copy() for key, node in self.value.items()}, self.origin)
        if isinstance(self.value, list):
            return Node([node.copy() for node in self.value], self.origin)
        return Node(self.value, self.origin)

    def find(self, path: Path) -> "Node | None":
        """The node at `path`, None where the tree does not reach that far."""
        node = self
        for part in path:
            child = node._child(part)
            if child is None:
                return None
            node = child
        return node

    def nearest(self, path: Path) -> "Node":
        """The node at `path`, or its nearest existing ancestor."""
        node = self
        for part in path:
            child = node._child(part)
            if child is None:
                return node
            node = child
        return node

    def remove(self, path: Path) -> None:
        """Takes the value at `path` out; nothing happens when it is not there."""
        parent = self.find(path[:-1])
        if parent is None or parent._child(path[-1]) is None:
            return
        if isinstance(parent.value, dict):
            del parent.value[str(path[-1])]
        elif isinstance(parent.value, list):
            del parent.value[int(path[-1])]

    def _child(self, part: str | int) -> "Node | None":
        if isinstance(self.value, dict):
            return self.value.get(str(part))
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every scalar (and every empty mapping or list) in a plain tree, with its path."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    elif isinstance(value, list) and value:
        for index, child in enumerate(value):
            yield from leaves(child, (*path, index))
    else:
        yield path, value


def dotted(path: Sequence[str | int]) -> str:
    """`path` as people write it: `models.chat.affinity.devices[0]`; odd keys are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        key = part if _BARE_KEY.fullmatch(part) else f'"{part}"'
        text += f".{key}" if text else key
    return text
