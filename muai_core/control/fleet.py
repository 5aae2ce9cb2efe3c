"""The fleet as policies see it, made from the tables."""

from collections.abc import Mapping

from msgspec import Struct, field

from muai_core.control.state import DeviceRecord, State
from muai_core.model.device import DeviceLink
from muai_core.model.fleet import DeviceView, Fleet


def fleet_of(state: State) -> Fleet:
    """Every device that is present, in the fixed order: node, index, UUID."""
    present = [record for record in state.devices.values() if record.present]
    present.sort(key=lambda r: (r.device.node, r.device.index, r.device.uuid))
    views = tuple(_view(state, record) for record in present)
    return Fleet(views, tuple(state.platforms), links_of(state))


def links_of(state: State) -> Mapping[str, Mapping[str, DeviceLink]]:
    """What the sources say lies between two devices, by UUID in both directions."""
    links: dict[str, dict[str, DeviceLink]] = {}
    for source in state.sources.values():
        for link in source.links:
            links.setdefault(link.a, {})[link.b] = link
            links.setdefault(link.b, {})[link.a] = link
    return links


class Views(Struct):
    """The same fleet, kept between steps so that only what changed is made anew."""

    ordered: list[DeviceView] = field(default_factory=list)
    position: dict[str, int] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, DeviceLink]] = field(default_factory=dict)
    #: Devices whose claims or readings changed.
    outdated: dict[str, None] = field(default_factory=dict)
    #: Whether devices or links came or went.
    incomplete: bool = True

    def fleet(self, state: State) -> Fleet:
        if self.incomplete:
            fleet = fleet_of(state)
            self.ordered, self.links = list(fleet.devices), fleet.links
            self.position = {view.uuid: place for place, view in enumerate(self.ordered)}
        else:
            for uuid in self.outdated:
                # A device that is absent has no view, even while it is claimed.
                if uuid in self.position:
                    self.ordered[self.position[uuid]] = _view(state, state.devices[uuid])
        self.outdated, self.incomplete = {}, False
        return Fleet(tuple(self.ordered), tuple(state.platforms), self.links)


def allocatable_bytes(state: State, record: DeviceRecord) -> int:
    """Capacity less the driver's reserve, the config's, and what nobody's claim covers."""
    taken_bytes = record.foreign_bytes + (record.reading.memory_reserved_bytes or 0)
    free_bytes = record.device.memory_total_bytes - state.settings.memory_reserve_bytes
    return max(0, free_bytes - taken_bytes)


def _view(state: State, record: DeviceRecord) -> DeviceView:
    uuid = record.device.uuid
    return DeviceView(
        device=record.device,
        health=record.health,
        health_reason=record.health_reason,
        allocatable_bytes=allocatable_bytes(state, record),
        claimed_bytes=state.ledger.claimed_bytes(uuid),
        claimants=tuple(claim.replica_id for claim in state.ledger.on(uuid)),
    )
