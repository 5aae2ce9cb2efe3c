"""The fleet as one replica finds it: with everybody's claims but its own."""

from msgspec import structs

from muai_core.control.lifecycle import HOLDS_DEVICES
from muai_core.control.state import Replica
from muai_core.model.fleet import Fleet


def claims_of(replica: Replica) -> dict[str, int]:
    """What it claims, by device UUID; empty when it holds no devices."""
    if replica.placement is None or replica.state not in HOLDS_DEVICES:
        return {}
    return replica.placement.claims_by_device


def fleet_without(replica: Replica, fleet: Fleet) -> Fleet:
    """The fleet as it would be if the replica held nothing."""
    claims = claims_of(replica)
    if not claims:
        return fleet
    devices = tuple(
        structs.replace(
            view,
            claimed_bytes=view.claimed_bytes - claims[view.uuid],
            claimants=tuple(name for name in view.claimants if name != replica.id),
        )
        if view.uuid in claims
        else view
        for view in fleet.devices
    )
    return structs.replace(fleet, devices=devices)
