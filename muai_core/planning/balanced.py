"""The default strategy: spread the load, keep tensor parallelism on fast links."""

from collections.abc import Sequence

from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.plugin.allocation import AllocationStrategy


class Balanced(AllocationStrategy):
    """Least-claimed devices first, on one node.

    Score, in this order: fewer replicas of the same deployment on the node; fewer stages whose
    tensor-parallel ranks are not equal devices of one island; the smallest claimed share; then the
    node's name. The stages of a pipeline follow the device indices.
    """

    name = "balanced"

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        deployment = request.deployment
        need = deployment.tensor_parallel_size * deployment.pipeline_parallel_size
        best: tuple[tuple[int, int, float, str], list[list[DeviceView]]] | None = None
        for node, devices in fleet.nodes().items():
            if len(devices) < need:
                continue
            stages, slow = _form_stages(
                devices,
                deployment.tensor_parallel_size,
                deployment.pipeline_parallel_size,
            )
            load = sum(_load(view) for stage in stages for view in stage)
            score = (request.sibling_nodes.count(node), slow, load, node)
            if best is None or score < best[0]:
                best = (score, stages)
        if best is None:
            return Unplaceable(_too_few(need, fleet))
        (_, slow, _, node), stages = best
        links = "" if slow == 0 else f", {slow} stage(s) without a fast link between all ranks"
        reason = f"least claimed devices of node {node}{links}"
        return request.placement_on([view for stage in stages for view in stage], reason)


def _load(view: DeviceView) -> float:
    return view.claimed_bytes / max(1, view.allocatable_bytes)


def _by_load(view: DeviceView) -> tuple[float, int, str]:
    return _load(view), view.device.index, view.uuid


def _by_index(view: DeviceView) -> tuple[int, str]:
    return view.device.index, view.uuid


def _form_stages(
    devices: Sequence[DeviceView], tensor_parallel_size: int, stages: int
) -> tuple[list[list[DeviceView]], int]:
    """Choose `stages` groups of `tensor_parallel_size` devices; count those on slow links."""
    left = sorted(devices, key=_by_load)
    chosen: list[list[DeviceView]] = []
    slow = 0
    for _ in range(stages):
        group = _least_loaded_group(left, tensor_parallel_size)
        if group is None:
            group = left[:tensor_parallel_size]
        slow += tensor_parallel_size > 1 and not _linked(group)
        taken = {view.uuid for view in group}
        left = [view for view in left if view.uuid not in taken]
        chosen.append(sorted(group, key=_by_index))
    chosen.sort(key=lambda group: _by_index(group[0]))
    return chosen, slow


def _linked(group: Sequence[DeviceView]) -> bool:
    kinds = {(view.device.island, view.device.name) for view in group}
    return len(kinds) == 1 and group[0].device.island is not None


def _least_loaded_group(by_load: Sequence[DeviceView], size: int) -> list[DeviceView] | None:
    islands: dict[tuple[str | None, str], list[DeviceView]] = {}
    for view in by_load:
        islands.setdefault((view.device.island, view.device.name), []).append(view)
    groups = [members[:size] for members in islands.values() if len(members) >= size]

    def cost(group: list[DeviceView]) -> tuple[bool, float, tuple[float, int, str]]:
        return size > 1 and not _linked(group), sum(map(_load, group)), _by_load(group[0])

    return min(groups, key=cost, default=None)


def _too_few(need: int, fleet: Fleet) -> str:
    if not fleet.devices:
        return "no device is eligible"
    most = max(len(devices) for devices in fleet.nodes().values())
    return f"needs {need} devices on one node, at most {most} are eligible on any"
