"""Which devices of a node belong together: sets of tensor-parallel ranks by their links."""

from collections.abc import Sequence
from itertools import combinations

from muai_core.model.fleet import DeviceView
from muai_core.model.objective import Links, link_score

#: Nodes with more devices and an irregular topology are searched greedily.
_EXHAUSTIVE_DEVICES_MAX = 8

#: Places on the node, one tuple per stage.
Stages = tuple[tuple[int, ...], ...]


class Layout:
    """The links of one node, by the places of its devices. Remembers what it was asked."""

    def __init__(self, views: Sequence[DeviceView], links: Links) -> None:
        size = len(views)
        self.scores = [[100] * size for _ in range(size)]
        for i, j in combinations(range(size), 2):
            self.scores[i][j] = self.scores[j][i] = link_score(views[i], views[j], links)
        names = [view.device.name for view in views]
        #: Devices with the same number are interchangeable as far as links go.
        self.roles = [
            next(j for j in range(i + 1) if names[i] == names[j] and self._twins(i, j))
            for i in range(size)
        ]
        #: From the best score to the worst, the sets of devices that are connected that well.
        self.levels = [
            (score, self._components(score))
            for score in sorted(
                {self.scores[i][j] for i, j in combinations(range(size), 2)}, reverse=True
            )
        ]
        self._regular = all(
            self.stage_score(part) >= score for score, parts in self.levels for part in parts
        )
        self._formed: dict[tuple[tuple[int, ...], int, int], Stages] = {}

    def _twins(self, i: int, j: int) -> bool:
        return all(
            self.scores[i][k] == self.scores[j][k]
            for k in range(len(self.scores))
            if k not in (i, j)
        )

    def _components(self, score: int) -> list[tuple[int, ...]]:
        left = list(range(len(self.scores)))
        found = []
        while left:
            part = [left.pop(0)]
            for member in part:
                near = [j for j in left if self.scores[member][j] >= score]
                part += near
                left = [j for j in left if j not in near]
            found.append(tuple(sorted(part)))
        return found

    def stage_score(self, places: Sequence[int]) -> int:
        """The worst link between any two; 100 for one device."""
        return min((self.scores[i][j] for i, j in combinations(places, 2)), default=100)

    def score(self, stages: Stages) -> int:
        """The mean of the stages, rounded down."""
        return sum(map(self.stage_score, stages)) // len(stages)

    def form(self, ordered: Sequence[int], width: int, count: int) -> Stages:
        """`count` sets of `width` devices out of `ordered`, of which the first are preferred.

        The best links first, then the devices that come first. There must be enough of them. The
        sets are in the order of the devices' places.
        """
        if width == 1:
            return tuple((place,) for place in sorted(ordered[:count]))
        key = (tuple(ordered), width, count)
        found = self._formed.get(key)
        if found is None:
            if self._regular or len(ordered) > _EXHAUSTIVE_DEVICES_MAX:
                groups = self._by_levels(ordered, width, count)
            else:
                groups = self._exhaustive(ordered, width, count)
            found = tuple(sorted(tuple(sorted(group)) for group in groups))
            self._formed[key] = found
        return found

    def _by_levels(self, ordered: Sequence[int], width: int, count: int) -> list[list[int]]:
        left = list(ordered)
        groups: list[list[int]] = []
        while len(groups) < count:
            group = self._best_connected(left, width)
            groups.append(group)
            left = [place for place in left if place not in group]
        return groups

    def _best_connected(self, left: Sequence[int], width: int) -> list[int]:
        rank = {place: position for position, place in enumerate(left)}
        for _, parts in self.levels:
            groups = [
                sorted((place for place in part if place in rank), key=rank.__getitem__)[:width]
                for part in parts
            ]
            whole = [group for group in groups if len(group) == width]
            if whole:
                return min(
                    whole,
                    key=lambda group: (-self.stage_score(group), [rank[place] for place in group]),
                )
        return list(left[:width])

    def _exhaustive(self, ordered: Sequence[int], width: int, count: int) -> list[list[int]]:
        """The groups with the best sum of scores; the first of the best in the given order."""
        best: tuple[int, list[list[int]]] | None = None
        stack: list[tuple[int, list[list[int]], list[int]]] = [(0, [], list(ordered))]
        while stack:
            total, groups, left = stack.pop()
            if len(groups) == count:
                if best is None or total > best[0]:
                    best = total, groups
                continue
            missing = count - len(groups)
            if best is not None and total + 100 * missing <= best[0]:
                continue
            following = []
            spare = len(left) - width * missing
            # A group begins with the first device that is not left out.
            for skipped in range(spare + 1):
                first, rest = left[skipped], left[skipped + 1 :]
                for others in combinations(rest, width - 1):
                    group = [first, *others]
                    remaining = [place for place in rest if place not in others]
                    following.append((total + self.stage_score(group), [*groups, group], remaining))
            stack.extend(reversed(following))
        assert best is not None
        return best[1]
