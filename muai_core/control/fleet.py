"""The fleet as policies see it, made from the tables."""

from collections.abc import Iterable

from muai_core.control.state import DeviceRecord, State
from muai_core.model.fleet import DeviceView, Fleet


def fleet_of(state: State) -> Fleet:
    """Every device that is present, in the fixed order: node, index, UUID."""
    present = [record for record in state.devices.values() if record.present]
    present.sort(key=lambda r: (r.device.node, r.device.index, r.device.uuid))
    return Fleet(tuple(_view(state, record) for record in present), tuple(state.platforms))


def with_claims(state: State, fleet: Fleet, changed: Iterable[str]) -> Fleet:
    """The same fleet with the views of the devices in `changed` made anew."""
    renew = frozenset(changed)
    return Fleet(
        tuple(
            _view(state, state.devices[view.uuid]) if view.uuid in renew else view
            for view in fleet.devices
        ),
        fleet.platforms,
    )


def _view(state: State, record: DeviceRecord) -> DeviceView:
    uuid = record.device.uuid
    foreign = record.reading.memory_foreign_bytes or 0
    reserve = state.settings.memory_reserve_bytes
    return DeviceView(
        device=record.device,
        health=record.health,
        health_reason=record.health_reason,
        allocatable_bytes=max(0, record.device.memory_total_bytes - reserve - foreign),
        claimed_bytes=state.ledger.claimed_bytes(uuid),
        claimants=tuple(claim.replica_id for claim in state.ledger.on(uuid)),
    )
