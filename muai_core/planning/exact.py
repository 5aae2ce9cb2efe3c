"""The exact search for small fleets: the most replicas that can be served, always the same plan.

The first of all plans in a fixed order is still the first when devices that it does not use are
gone, and with more devices there are only more plans.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, groupby

from muai_core.planning.candidates import Candidate
from muai_core.planning.search import Search

#: Replicas placed on trial, and candidates worked out for them: tenths of a second at most.
_TRIALS_MAX = 1500
_CANDIDATES_MAX = 2500


class _OutOfTrials(Exception):
    pass


class Exact:
    """The first plan, in the order of scores, of those that serve the most.

    How many can be served is found by letting the hardest wait, because that makes room soonest.
    Then the plan is the first one that serves as many, with the hardest served if possible: a
    large model does not wait for ever because small ones can always be found.
    """

    def __init__(self, search: Search, hardest: Sequence[int], plan: dict[int, Candidate]) -> None:
        self._search = search
        self._fallback = plan
        items = search.items
        self._runs = [
            list(run) for _, run in groupby(hardest, key=lambda place: id(items[place].needs))
        ]
        self._count = len(hardest)
        self._plan: dict[int, Candidate] = {}
        self._failed: set[tuple[object, ...]] = set()
        self._trials = 0
        self._made_max = search.made + _CANDIDATES_MAX
        self._hardest_wait = True
        self._bounds = [
            self._prefix_sums([p for run in self._runs[start:] for p in run])
            for start in range(len(self._runs) + 1)
        ]

    def _prefix_sums(self, places: Sequence[int]) -> tuple[list[int], list[int], int]:
        """Bytes and ranks of the smallest 1, 2, ... of the replicas; the smallest rank."""
        needs = [self._search.items[place].needs for place in places]
        smallest = min(
            (need.least_bytes for one in needs for group in one.groups for need in group),
            default=0,
        )
        return (
            list(accumulate(sorted(one.least_total_bytes for one in needs))),
            list(accumulate(sorted(one.fewest_devices for one in needs))),
            max(1, smallest),
        )

    def solve(self) -> dict[int, Candidate]:
        best = self._fallback
        waiting = self._count - len(best)
        try:
            while waiting and self._run(0, waiting - 1):
                best, waiting = self._withdrawn(), waiting - 1
            self._hardest_wait = False
            if self._run(0, waiting):
                best = self._withdrawn()
        except _OutOfTrials:
            self._withdrawn()
        return best

    def _withdrawn(self) -> dict[int, Candidate]:
        """The plan, taken from the board."""
        plan, self._plan = self._plan, {}
        for place, candidate in plan.items():
            self._search.untake(self._search.items[place], candidate)
        return plan

    def _run(self, run: int, waiting: int) -> bool:
        """Place this run of equal replicas and all after it; so many may be left waiting."""
        if run == len(self._runs):
            return True
        if not self._may_fit(run, waiting):
            return False
        size = len(self._runs[run])
        skips = range(min(size, waiting) + 1)
        return any(
            self._fill(run, 0, size - skipped, waiting - skipped)
            for skipped in (reversed(skips) if self._hardest_wait else skips)
        )

    def _fill(self, run: int, number: int, count: int, waiting: int) -> bool:
        if number == count:
            return self._run(run + 1, waiting)
        key = (run, number, count, waiting, self._state())
        if key in self._failed:
            return False
        search = self._search
        place = self._runs[run][number]
        item = search.items[place]
        for candidate in search.candidates(item):
            self._trials += 1
            if self._trials > _TRIALS_MAX or search.made > self._made_max:
                raise _OutOfTrials
            search.take(item, candidate)
            self._plan[place] = candidate
            if self._fill(run, number + 1, count, waiting):
                return True
            search.untake(item, candidate)
            del self._plan[place]
        self._failed.add(key)
        return False

    def _state(self) -> tuple[object, ...]:
        """Boards with equal states can serve the same."""
        states = [
            tuple(zip(node.free, (claims > 0 for claims in node.claims), strict=True))
            for node in self._search.board.nodes
        ]
        return tuple(states)

    def _may_fit(self, run: int, waiting: int) -> bool:
        """Whether what is free could be enough for all but `waiting`, were it in one piece."""
        total_bytes, ranks, smallest = self._bounds[run]
        wanted = len(total_bytes) - waiting
        if wanted <= 0:
            return True
        free = [one for node in self._search.board.nodes for one in node.free if one >= smallest]
        return (
            bisect_right(total_bytes, sum(free)) >= wanted
            and bisect_right(ranks, sum(one // smallest for one in free)) >= wanted
        )
