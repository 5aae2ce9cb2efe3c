"""What makes one place better than another: the scores of `balanced` and `packed`.

Every score is a tuple of integers, the lower the better, and depends on the devices that a replica
would use and on nothing else: a device that nobody uses may come or go without changing a plan.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from muai_core.planning.board import Node
from muai_core.planning.needs import ShapeNeed

Score = tuple[int, ...]


class Style(ABC):
    """How a strategy likes its devices."""

    @abstractmethod
    def rank(self, node: Node, place: int, need_bytes: int) -> Score:
        """Which devices of a node to take first."""

    @abstractmethod
    def score(
        self, node: Node, places: Sequence[int], claims: Iterable[int], topology: int, shape: int
    ) -> Score:
        """Of a set of devices; `shape` is the place of the shape in the order of preference."""

    @abstractmethod
    def walk_key(self, node: Node) -> tuple[int, int]:
        """Which nodes to try first."""

    @abstractmethod
    def bound(self, node: Node, need: ShapeNeed) -> Score:
        """No score on this node, or on one after it in the walk, begins with less."""

    @abstractmethod
    def reason(self, node: Node) -> str:
        """Why these devices, in the words for people."""


class Spread(Style):
    """Load over all devices: those first of which the smallest share is claimed."""

    def rank(self, node: Node, place: int, need_bytes: int) -> Score:
        return (node.degraded[place], node.share(place), place)

    def score(
        self, node: Node, places: Sequence[int], claims: Iterable[int], topology: int, shape: int
    ) -> Score:
        shares = [node.share(place) for place in places]
        degraded = sum(node.degraded[place] for place in places)
        return (100 - topology, shape, degraded, max(shares), sum(shares))

    def walk_key(self, node: Node) -> tuple[int, int]:
        return (min(map(node.share, range(len(node.views)))), 0)

    def bound(self, node: Node, need: ShapeNeed) -> Score:
        return (0, 0, 0, node.walk_key[0])

    def reason(self, node: Node) -> str:
        return f"least claimed devices of node {node.name}"


class Dense(Style):
    """As few devices as possible: those in use first, the tightest fit first."""

    def rank(self, node: Node, place: int, need_bytes: int) -> Score:
        left = node.free[place] - need_bytes
        return (node.claimed[place] == 0, node.degraded[place], left, place)

    def score(
        self, node: Node, places: Sequence[int], claims: Iterable[int], topology: int, shape: int
    ) -> Score:
        opened = sum(node.claimed[place] == 0 for place in places)
        left = sum(node.free[place] - claim for place, claim in zip(places, claims, strict=True))
        degraded = sum(node.degraded[place] for place in places)
        return (opened, not any(node.claimed), 100 - topology, shape, degraded, left)

    def walk_key(self, node: Node) -> tuple[int, int]:
        return (not any(node.claimed), sum(node.free))

    def bound(self, node: Node, need: ShapeNeed) -> Score:
        return (need.devices, 1, 0, 0, 0) if node.walk_key[0] else (0, 0, 0, 0, 0, 0)

    def reason(self, node: Node) -> str:
        return f"tightest fit on node {node.name}, devices in use first"
