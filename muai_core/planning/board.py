"""The fleet as the search sees it: per node what is free now, changed in place by trial claims."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence

from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.objective import Links
from muai_core.planning.needs import Needs, ShapeNeed
from muai_core.planning.topology import Layout


class Node:
    """The devices of one node by their places: in the order of index and UUID."""

    def __init__(self, name: str, views: Sequence[DeviceView], links: Links) -> None:
        self.name = name
        self.views = sorted(views, key=lambda view: (view.device.index, view.uuid))
        self.allocatable = [view.allocatable_bytes for view in self.views]
        self.claimed = [view.claimed_bytes for view in self.views]
        self.free = [max(0, a - c) for a, c in zip(self.allocatable, self.claimed, strict=True)]
        self.most_free = max(self.free)
        #: How many claims each device carries.
        self.claims = [len(view.claimants) for view in self.views]
        self.degraded = [view.health.value != "healthy" for view in self.views]
        #: Its place in the order of nodes, and in the order in which the search walks.
        self.place = 0
        self.walk_key: tuple[int, int] = (0, 0)
        self._links = links
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            self._layout = Layout(self.views, self._links)
        return self._layout

    def share(self, place: int) -> int:
        """What is claimed, in millionths of what is allocatable."""
        return self.claimed[place] * 1_000_000 // max(1, self.allocatable[place])

    def fitting(self, need: ShapeNeed, admitted: Sequence[int], least_bytes: int) -> list[int]:
        """The admitted places on which a rank may be, as far as their own memory goes."""
        if need.whole:
            return [i for i in admitted if not self.claims[i] and self.free[i] > 0]
        return [i for i in admitted if self.free[i] >= least_bytes]

    def claim(self, places: Iterable[int], claims: Iterable[int]) -> None:
        for place, claim in zip(places, claims, strict=True):
            self.claimed[place] += claim
            self.free[place] -= claim
            self.claims[place] += 1
        self.most_free = max(self.free)

    def unclaim(self, places: Iterable[int], claims: Iterable[int]) -> None:
        for place, claim in zip(places, claims, strict=True):
            self.claimed[place] -= claim
            self.free[place] += claim
            self.claims[place] -= 1
        self.most_free = max(self.free)

    def state(self, place: int) -> tuple[int, int, int, bool, bool]:
        """What tells a device from others of the same role."""
        return (
            self.free[place],
            self.allocatable[place],
            self.claims[place],
            self.degraded[place],
            self.claimed[place] > 0,
        )


class Board:
    """All nodes, those that the strategy likes to fill first at the front."""

    def __init__(
        self,
        fleet: Fleet,
        admits: Callable[[PlacementRequest, DeviceView], bool],
        walk_key: Callable[[Node], tuple[int, int]],
    ) -> None:
        grouped = fleet.nodes()
        self.nodes = [Node(name, grouped[name], fleet.links) for name in sorted(grouped)]
        self.by_name = {node.name: node for node in self.nodes}
        self._node_of = {view.uuid: node for node in self.nodes for view in node.views}
        self._admits = admits
        self._walk_key = walk_key
        for place, node in enumerate(self.nodes):
            node.place, node.walk_key = place, walk_key(node)
        self._order = sorted((node.walk_key, node.place) for node in self.nodes)
        self._admitted: dict[tuple[int, int], Sequence[int]] = {}

    def devices(self) -> int:
        return sum(len(node.views) for node in self.nodes)

    def admitted(self, needs: Needs, request: PlacementRequest, node: Node) -> Sequence[int]:
        """The places of the node that the filters let the request use."""
        key = (needs.admission, node.place)
        found = self._admitted.get(key)
        if found is None:
            views = enumerate(node.views)
            found = [place for place, view in views if self._admits(request, view)]
            self._admitted[key] = found
        return found

    def walk(self, request: PlacementRequest, least_bytes: int = 0) -> Sequence[Node]:
        """The nodes that the request's affinity allows, those to be filled first at the front.

        Without those on which no device has `least_bytes`.
        """
        nodes = self.nodes
        affinity = request.deployment.affinity
        names = affinity.nodes
        if affinity.devices and not any(name.isdecimal() for name in affinity.devices):
            named = (self._node_of.get(uuid) for uuid in affinity.devices)
            names = tuple(node.name for node in named if node is not None)
            if not names:
                return ()
        if not names:
            return [
                node for _, place in self._order if (node := nodes[place]).most_free >= least_bytes
            ]
        chosen = {name: self.by_name[name] for name in names if name in self.by_name}
        allowed = (node for node in chosen.values() if node.most_free >= least_bytes)
        return sorted(allowed, key=lambda node: (node.walk_key, node.place))

    def claim(self, node: Node, places: Iterable[int], claims: Iterable[int]) -> None:
        node.claim(places, claims)
        self._reorder(node)

    def unclaim(self, node: Node, places: Iterable[int], claims: Iterable[int]) -> None:
        node.unclaim(places, claims)
        self._reorder(node)

    def _reorder(self, node: Node) -> None:
        key = self._walk_key(node)
        if key != node.walk_key:
            del self._order[bisect_left(self._order, (node.walk_key, node.place))]
            node.walk_key = key
            insort(self._order, (key, node.place))
