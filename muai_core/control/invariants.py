"""What must hold after every step. Checked by tests, by `muai replay` and by the simulator."""

from muai_core.control.lifecycle import HOLDS_DEVICES, ReplicaState
from muai_core.control.state import Replica, State

#: States in which the plane has asked for something and must not wait for ever.
_HAS_DEADLINE = HOLDS_DEVICES - {ReplicaState.READY} | {ReplicaState.BACKOFF}


def violations(state: State) -> list[str]:
    """Every broken invariant in words; empty when all hold."""
    return [
        *_every_claim_has_its_replica(state),
        *_every_holder_has_its_claims(state),
        *_no_device_is_overcommitted(state),
        *_routes_lead_to_ready_replicas(state),
        *_no_more_than_desired(state),
        *_nobody_waits_for_ever(state),
    ]


def _every_claim_has_its_replica(state: State) -> list[str]:
    found = []
    for uuid, claims in state.ledger.claims.items():
        if uuid not in state.devices:
            found.append(f"{uuid} is claimed but forgotten")
        for claim in claims.values():
            replica = state.replicas.get(claim.replica_id)
            if replica is None or replica.state not in HOLDS_DEVICES:
                found.append(f"{claim.replica_id} has a claim on {uuid} in no state to hold one")
            elif replica.epoch != claim.epoch:
                found.append(f"{claim.replica_id} holds {uuid} under epoch {claim.epoch}")
    return found


def _every_holder_has_its_claims(state: State) -> list[str]:
    held: dict[str, list[str]] = {}
    for uuid, claims in state.ledger.claims.items():
        for replica_id in claims:
            held.setdefault(replica_id, []).append(uuid)
    found = []
    for replica in state.replicas.values():
        holds = sorted(held.get(replica.id, []))
        expected = _devices_of(replica)
        if holds != expected:
            found.append(f"{replica.id} is {replica.state} with {holds}, expected {expected}")
    return found


def _devices_of(replica: Replica) -> list[str]:
    if replica.state not in HOLDS_DEVICES or replica.placement is None:
        return []
    return sorted(replica.placement.devices)


def _no_device_is_overcommitted(state: State) -> list[str]:
    return [
        f"{uuid} has {record.device.memory_total_bytes} bytes, "
        f"{state.ledger.claimed_bytes(uuid)} are claimed"
        for uuid, record in state.devices.items()
        if state.ledger.claimed_bytes(uuid) > record.device.memory_total_bytes
    ]


def _routes_lead_to_ready_replicas(state: State) -> list[str]:
    routed = sorted((route.replica_id, route.epoch) for route in state.routes.routes)
    ready = sorted(
        (replica.id, replica.epoch)
        for replica in state.replicas.values()
        if replica.state is ReplicaState.READY and replica.deployment in state.deployments
    )
    return [] if routed == ready else [f"routes lead to {routed}, ready are {ready}"]


def _no_more_than_desired(state: State) -> list[str]:
    in_play = dict.fromkeys(state.deployments, 0)
    for replica in state.replicas.values():
        deployment = state.deployments.get(replica.deployment)
        if deployment is not None and replica.generation == deployment.generation:
            in_play[deployment.name] += not replica.retiring
    return [
        f"{name} has {in_play[name]} replicas in play, {deployment.replicas} are desired"
        for name, deployment in state.deployments.items()
        if in_play[name] != deployment.replicas
    ]


def _nobody_waits_for_ever(state: State) -> list[str]:
    return [
        f"{replica.id} is {replica.state} without a deadline"
        for replica in state.replicas.values()
        if (replica.due_at_s is not None) != (replica.state in _HAS_DEADLINE)
    ]
