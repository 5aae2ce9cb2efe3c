"""Devices that are interchangeable: a plan that swaps two of them is worth the same."""

from collections.abc import Callable, Hashable, Sequence

from muai_core.model.fleet import DeviceView, Fleet
from muai_core.model.objective import link_score

#: Positions in `fleet.devices`, ascending; all on one node.
DeviceClass = tuple[int, ...]


def device_classes(fleet: Fleet, mark: Callable[[DeviceView], Hashable]) -> list[DeviceClass]:
    """The fleet's devices in classes, in the order of their first members.

    Two devices are in one class when they are of the same node, card and memory, `mark` says the
    same of them, and they reach every third device equally well. Costs O(n³) for a node of n
    devices, less where they are alike.
    """
    nodes: dict[str, list[int]] = {}
    for position, view in enumerate(fleet.devices):
        nodes.setdefault(view.device.node, []).append(position)
    found: list[DeviceClass] = []
    for members in nodes.values():
        found += _classes_of_node(fleet, members, mark)
    return sorted(found)


def _classes_of_node(
    fleet: Fleet, members: Sequence[int], mark: Callable[[DeviceView], Hashable]
) -> list[DeviceClass]:
    views = fleet.devices
    traits = {position: (_traits(views[position]), mark(views[position])) for position in members}
    scores = {
        (a, b): link_score(views[a], views[b], fleet.links)
        for a in members
        for b in members
        if a != b
    }
    classes: list[list[int]] = []
    for position in members:
        for group in classes:
            # Being interchangeable is transitive, so one member speaks for all.
            first = group[0]
            if traits[first] == traits[position] and all(
                scores[first, other] == scores[position, other]
                and scores[other, first] == scores[other, position]
                for other in members
                if other not in (first, position)
            ):
                group.append(position)
                break
        else:
            classes.append([position])
    return [tuple(group) for group in classes]


def _traits(view: DeviceView) -> Hashable:
    return (
        view.device.name,
        view.allocatable_bytes,
        view.claimed_bytes,
        bool(view.claimants),
    )
