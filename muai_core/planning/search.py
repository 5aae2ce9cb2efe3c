"""The search: one replica where it is best; many so that as many as possible are served.

Many replicas are placed hardest first, each where it is best. Where that leaves some without
devices, other orders are tried. On small fleets the plan is then found exactly: the first in the
order of scores that serves the most. The first of all plans in a fixed order is still the first
when devices that it does not use are gone, and with more devices there are only more plans. Hence
the laws: a device more never serves fewer, and an unused one less changes nothing. The search ends
after a fixed number of trials; beyond that the best plan found stands.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning.board import Board, Node
from muai_core.planning.candidates import Candidate, best_on, every_on, with_siblings
from muai_core.planning.needs import Needs, NeedTable
from muai_core.planning.styles import Score, Style
from muai_core.planning.wording import gib

#: Beyond either, replicas are placed one after the other without the exact search.
_EXACT_DEVICES_MAX = 64
_EXACT_REPLICAS_MAX = 64
#: Nodes with room that are compared for one replica on a large fleet.
_NODES_COMPARED = 64
#: From here on a stage counts as linked fast: the score of one NVLink.
_FAST_LINK = 64

Admits = Callable[[PlacementRequest, DeviceView], bool]


class Item:
    """One request under way."""

    def __init__(self, request: PlacementRequest, needs: Needs, ordinal: int) -> None:
        self.request = request
        self.needs = needs
        self.name = request.deployment.name
        #: The hardest first, of equally hard ones those with equal needs together, of these one of
        #: each deployment in turn. Nothing of it depends on the fleet or on the order of requests.
        self.tie = (ordinal, self.name, len(request.replica_id), request.replica_id)


class Search:
    """One problem on one board."""

    def __init__(
        self,
        requests: Sequence[PlacementRequest],
        fleet: Fleet,
        admits: Admits,
        style: Style,
        *,
        every_shape: bool = False,
    ) -> None:
        """With `every_shape` also those that no node has devices for are worked out."""
        self.style = style
        self.board = Board(fleet, admits, style.walk_key)
        largest = max((len(node.free) for node in self.board.nodes), default=0)
        table = NeedTable(None if every_shape else largest)
        in_order = sorted(requests, key=lambda one: (len(one.replica_id), one.replica_id))
        seen: dict[str, int] = {}
        ordinals: dict[str, int] = {}
        for request in in_order:
            name = request.deployment.name
            ordinals[request.replica_id] = seen[name] = seen.get(name, -1) + 1
        self.items = [
            Item(request, table.of(request.deployment), ordinals[request.replica_id])
            for request in requests
        ]
        self._siblings: dict[tuple[str, str], int] = {}
        for item in self.items:
            for node in item.request.sibling_nodes:
                # Requests of one deployment name the same siblings: those that run already.
                count = item.request.sibling_nodes.count(node)
                self._siblings[item.name, node] = count
        self.exact = (
            self.board.devices() <= _EXACT_DEVICES_MAX and len(requests) <= _EXACT_REPLICAS_MAX
        )
        self._lists: dict[object, list[Candidate]] = {}
        #: Candidates worked out so far: the measure of effort.
        self.made = 0
        self._too_few: dict[int, str] = {}

    # --- one replica ----------------------------------------------------------------------------

    def siblings(self, item: Item, node: Node) -> int:
        return self._siblings.get((item.name, node.name), 0)

    def best(self, item: Item) -> Candidate | None:
        """Where this replica is best as things stand."""
        if self.exact:
            return next(self.candidates(item), None)
        for group_place in range(len(item.needs.groups)):
            best = self._best_of_group(item, group_place)
            if best is not None:
                return best
        return None

    def _best_of_group(self, item: Item, group_place: int) -> Candidate | None:
        group = item.needs.groups[group_place]
        least = min(need.least_bytes for need in group)
        best: Candidate | None = None
        compared = 0
        with_siblings_on: list[tuple[int, int, Node]] = []
        for node in self.board.walk(item.request, least):
            if best is not None and (compared >= _NODES_COMPARED or self._good_enough(best, node)):
                break
            siblings = self.siblings(item, node)
            if siblings:
                with_siblings_on.append((siblings, len(with_siblings_on), node))
                continue
            found = self._best_on(item, node, group_place)
            if found is not None:
                compared += 1
                if best is None or found.score < best.score:
                    best = found
        if best is not None:
            return best
        fewest = None
        for siblings, _, node in sorted(with_siblings_on, key=lambda entry: entry[:2]):
            if best is not None and (siblings != fewest or compared >= _NODES_COMPARED):
                break
            found = self._best_on(item, node, group_place)
            if found is not None:
                compared += 1
                fewest = siblings
                if best is None or found.score < best.score:
                    best = found
        return best

    def _good_enough(self, best: Candidate, node: Node) -> bool:
        """Whether nothing from this node on can be better, but for ties."""
        bound = self.style.bound(node, best.need)
        return best.score[1 : 1 + len(bound)] <= bound

    def _best_on(self, item: Item, node: Node, group_place: int) -> Candidate | None:
        admitted = self.board.admitted(item.needs, item.request, node)
        best: Candidate | None = None
        for need in item.needs.groups[group_place]:
            found = best_on(node, need, admitted, self.style)
            if found is not None and (best is None or found.score < best.score):
                best = found
        return best

    def candidates(self, item: Item) -> Iterator[Candidate]:
        """All that differ in more than names, the best first. For small fleets.

        The cheaper shapes come first, so the others are worked out only when somebody asks on; by
        then the board must be again as it was.
        """
        for group_place in range(len(item.needs.groups)):
            found = [
                (self.score(item, candidate), candidate)
                for node in self.board.walk(item.request)
                for candidate in self._every_on(item, node, group_place)
            ]
            found.sort(key=lambda entry: entry[0])
            yield from (candidate for _, candidate in found)

    def _every_on(self, item: Item, node: Node, group_place: int) -> list[Candidate]:
        key = (id(item.needs), group_place, node.place, tuple(node.free), tuple(node.claims))
        known = self._lists.get(key)
        if known is None:
            admitted = self.board.admitted(item.needs, item.request, node)
            known = self._lists[key] = [
                candidate
                for need in item.needs.groups[group_place]
                for candidate in every_on(node, need, admitted, self.style)
            ]
            # Layers that are cut cost as much as so many candidates whose layers are not.
            self.made += sum(candidate.need.stages for candidate in known)
        return known

    def score(self, item: Item, candidate: Candidate) -> Score:
        return with_siblings(candidate, self.siblings(item, candidate.node))

    def take(self, item: Item, candidate: Candidate) -> None:
        self.board.claim(candidate.node, candidate.places, candidate.claims)
        key = (item.name, candidate.node.name)
        self._siblings[key] = self._siblings.get(key, 0) + 1

    def untake(self, item: Item, candidate: Candidate) -> None:
        self.board.unclaim(candidate.node, candidate.places, candidate.claims)
        self._siblings[item.name, candidate.node.name] -= 1

    # --- many replicas --------------------------------------------------------------------------

    def solve(self) -> list[Candidate | None]:
        """For each request, in order, where it goes."""
        hardest = self._in_runs(range(len(self.items)))
        plan = self._one_by_one(hardest)
        if len(plan) < len(self.items):
            possible = self._possible(hardest, plan)
            if len(plan) < len(possible):
                plan = self._better(possible, plan)
        return [plan.get(place) for place in range(len(self.items))]

    def _possible(self, order: Sequence[int], plan: Mapping[int, Candidate]) -> list[int]:
        """Those that can be served when nobody else of the problem is."""
        known: dict[int, bool] = {id(self.items[place].needs): True for place in plan}
        for place in order:
            item = self.items[place]
            if id(item.needs) not in known:
                known[id(item.needs)] = self.best(item) is not None
        return [place for place in order if known[id(self.items[place].needs)]]

    def _better(self, possible: list[int], plan: dict[int, Candidate]) -> dict[int, Candidate]:
        """When the hardest first does not serve all that could be served."""
        easiest_first = self._one_by_one(list(reversed(possible)))
        if len(easiest_first) > len(plan):
            plan = easiest_first
        if self.exact:
            # It builds on this module.
            from muai_core.planning.exact import Exact

            plan = Exact(self, possible, plan).solve()
        if len(plan) < len(possible):
            as_given = self._one_by_one(sorted(possible))
            if len(as_given) > len(plan):
                plan = as_given
        return plan

    def _in_runs(self, places: Sequence[int]) -> list[int]:
        """The hardest first, those with equal needs next to each other."""
        first: dict[int, tuple[int, str, int, str]] = {}
        for place in places:
            item = self.items[place]
            key = id(item.needs)
            first[key] = min(first.get(key, item.tie), item.tie)

        def by_hardness(place: int) -> tuple[object, ...]:
            item = self.items[place]
            pinned, devices, whole, rank_bytes, total_bytes = item.needs.hardness
            hardness = (-pinned, -devices, -whole, -rank_bytes, -total_bytes)
            return (*hardness, first[id(item.needs)], item.tie)

        return sorted(places, key=by_hardness)

    def _one_by_one(self, order: Sequence[int]) -> dict[int, Candidate]:
        """Each where it is best at its turn. The board is afterwards as it was before."""
        plan: dict[int, Candidate] = {}
        hopeless: dict[int, None] = {}
        for place in order:
            item = self.items[place]
            # What is free only shrinks.
            if id(item.needs) in hopeless:
                continue
            found = self.best(item)
            if found is None:
                hopeless[id(item.needs)] = None
                continue
            self.take(item, found)
            plan[place] = found
        for place, candidate in plan.items():
            self.untake(self.items[place], candidate)
        return plan

    # --- answers --------------------------------------------------------------------------------

    def answer(self, item: Item, candidate: Candidate | None) -> Placement | Unplaceable:
        if candidate is None:
            return Unplaceable(self._why_not(item))
        views = candidate.node.views
        stages = tuple(tuple(views[i].uuid for i in stage) for stage in candidate.stages)
        slow = 0
        if candidate.need.width > 1:
            scores = (candidate.node.layout.stage_score(stage) for stage in candidate.stages)
            slow = sum(score < _FAST_LINK for score in scores)
        links = f", {slow} stage(s) without a fast link between all ranks" if slow else ""
        layers = candidate.layers if len(candidate.layers) == len(stages) else ()
        return Placement(
            stages, reason=f"{self.style.reason(candidate.node)}{links}", layers=layers
        )

    def _why_not(self, item: Item) -> str:
        key = id(item.needs)
        if key not in self._too_few:
            self._too_few[key] = self._words_why_not(item)
        return self._too_few[key]

    def _words_why_not(self, item: Item) -> str:
        nodes = self.board.nodes
        if not nodes:
            return "no device is eligible"
        needs = item.needs
        least = min(need.least_bytes for group in needs.groups for need in group)
        most = max(
            len(node.fitting(needs.groups[0][0], self._admitted(item, node), least))
            for node in nodes
        )
        if most < needs.fewest_devices:
            return (
                f"needs {needs.fewest_devices} devices on one node, "
                f"at most {most} are eligible on any"
            )
        need = needs.groups[0][0]
        each = "all of each" if need.whole else f"{gib(need.rank_bytes)} of each"
        return f"no node has {need.devices} devices with room left for {need.words} ({each})"

    def _admitted(self, item: Item, node: Node) -> Sequence[int]:
        return self.board.admitted(item.needs, item.request, node)


def place_one(request: PlacementRequest, fleet: Fleet, style: Style) -> Placement | Unplaceable:
    """One replica; every device of the fleet is eligible."""
    search = Search([request], fleet, lambda _request, _view: True, style)
    return search.answer(search.items[0], search.best(search.items[0]))


def place_many(
    requests: Sequence[PlacementRequest], fleet: Fleet, admits: Admits, style: Style, *others: Style
) -> list[Placement | Unplaceable]:
    """All of them, on small fleets in the first of the styles that serves the most.

    Answers in their order.
    """
    search = Search(requests, fleet, admits, style)
    plan = search.solve()
    for other in others:
        # On a large fleet it costs as much again, and nearly always serves as many.
        if all(plan) or not search.exact:
            break
        second = Search(requests, fleet, admits, other)
        found = second.solve()
        if sum(map(bool, found)) > sum(map(bool, plan)):
            search, plan = second, found
    return [
        search.answer(item, candidate) for item, candidate in zip(search.items, plan, strict=True)
    ]
