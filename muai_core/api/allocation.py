"""GPUs that a program holds: chosen by MuAI's own planner, claimed in the manager's own ledger."""

from collections.abc import Callable, Mapping
from types import TracebackType

from msgspec import structs

from muai_core.control.fleet import fleet_of
from muai_core.control.ledger import Ledger
from muai_core.control.state import State
from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.health import Health
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning.balanced import Balanced
from muai_core.planning.place import place

_PLATFORMS: tuple[Platform, ...] = ("cuda", "simulated")
#: Claims have no epochs here: an allocation is made once.
_EPOCH = 1


class AllocationError(Exception):
    """No GPUs could be allocated; the text says why, GPU by GPU."""

    def __init__(self, summary: str, reasons: Mapping[int, str]) -> None:
        lines = [summary, *(f"GPU {device_id}: {why}" for device_id, why in reasons.items())]
        super().__init__("\n  ".join(lines))
        self.summary = summary
        #: Device id → why this GPU was refused.
        self.reasons = dict(reasons)


class GPUAllocation:
    """GPUs that are claimed until they are released; as a context manager, until its end."""

    def __init__(
        self,
        name: str,
        stages: list[list[int]],
        uuids: tuple[str, ...],
        memory_bytes: tuple[int, ...],
        reason: str,
        release: Callable[["GPUAllocation"], None],
    ) -> None:
        self.name = name
        #: `stages[s][t]` is the device id for pipeline stage s, tensor-parallel rank t.
        self.stages = stages
        #: In rank order, as for CUDA_VISIBLE_DEVICES.
        self.uuids = uuids
        #: Claimed of each GPU, in rank order.
        self.memory_bytes = memory_bytes
        #: One line: why these GPUs.
        self.reason = reason
        self._release = release

    @property
    def device_ids(self) -> list[int]:
        """All device ids in rank order: rank = stage × tensor_parallel + t."""
        return [device_id for stage in self.stages for device_id in stage]

    def __enter__(self) -> "GPUAllocation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release(self)

    def __repr__(self) -> str:
        return f"<{self.name}: GPUs {self.stages}>"


class Claims:
    """What the allocations of one manager hold. Not thread-safe."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._held: dict[str, Placement] = {}
        self._made = 0
        #: Foreign memory when the first claim on a GPU was made. What came later is taken for that
        #: of the claims, because their owner is a process like any other.
        self._foreign_before: dict[str, int] = {}

    def claim(
        self,
        state: State,
        tensor_parallel: int,
        pipeline_parallel: int,
        memory_bytes_per_gpu: int | None,
    ) -> tuple[str, Placement] | Unplaceable:
        """Claim the least used GPUs, healthy ones if there are enough; the allocation's name."""
        self._made += 1
        name = f"allocation-{self._made}"
        request = PlacementRequest(
            replica_id=name,
            deployment=Deployment(
                name=name,
                source="",
                engine="muai_core.api",
                tensor_parallel_size=tensor_parallel,
                pipeline_parallel_size=pipeline_parallel,
                platforms=_PLATFORMS,
                memory_bytes_per_device=memory_bytes_per_gpu,
            ),
        )
        fleet = self._fleet(state)
        healthy = tuple(view for view in fleet.devices if view.health is Health.HEALTHY)
        answer, _ = place(request, Fleet(healthy), Balanced())
        if isinstance(answer, Unplaceable):
            answer, _ = place(request, fleet, Balanced())
        if isinstance(answer, Unplaceable):
            return answer
        for uuid in answer.devices:
            if not self._ledger.on(uuid):
                self._foreign_before[uuid] = state.devices[uuid].foreign_bytes
        self._ledger.claim(name, _EPOCH, answer)
        self._held[name] = answer
        return name, answer

    def release(self, name: str) -> None:
        """Raises ValueError when the allocation holds nothing any more."""
        placement = self._held.pop(name, None)
        if placement is None:
            raise ValueError(f"{name} was released before")
        self._ledger.release(name, _EPOCH, placement.devices)

    def claimed_bytes(self, uuid: str) -> int:
        """What all allocations together hold of a GPU."""
        return self._ledger.claimed_bytes(uuid)

    def _fleet(self, state: State) -> Fleet:
        gpus = (view for view in fleet_of(state).devices if view.device.kind == "gpu")
        return Fleet(tuple(self._with_claims(view, state) for view in gpus))

    def _with_claims(self, view: DeviceView, state: State) -> DeviceView:
        claims = self._ledger.on(view.uuid)
        if not claims:
            return view
        claimed = sum(claim.memory_bytes for claim in claims)
        foreign = state.devices[view.uuid].foreign_bytes
        before = min(foreign, self._foreign_before[view.uuid])
        own = foreign - max(before, foreign - claimed)
        return structs.replace(
            view,
            allocatable_bytes=view.allocatable_bytes + own,
            claimed_bytes=claimed,
            claimants=tuple(claim.replica_id for claim in claims),
        )
