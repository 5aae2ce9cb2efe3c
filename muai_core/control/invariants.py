"""What must hold after every step. Checked by tests, by `muai replay` and by the simulator."""

from muai_core.control import health, tally
from muai_core.control.lifecycle import HOLDS_DEVICES, ReplicaState
from muai_core.control.state import DeviceRecord, Replica, State
from muai_core.model.health import Health

#: States in which the plane has asked for something and must not wait for ever.
_HAS_DEADLINE = HOLDS_DEVICES - {ReplicaState.READY} | {ReplicaState.BACKOFF}


def violations(state: State) -> list[str]:
    """Every broken invariant in words; empty when all hold."""
    return [
        *_every_claim_has_its_replica(state),
        *_every_holder_has_its_claims(state),
        *_no_device_is_overcommitted(state),
        *_no_gpu_has_two_ranks(state),
        *_routes_lead_to_ready_replicas(state),
        *_no_more_than_desired(state),
        *_nobody_waits_for_ever(state),
        *_health_follows_from_the_findings(state),
        *_absent_means_vanished(state),
        *_a_host_fault_is_on_all_its_devices(state),
        *_devices_remember_within_bounds(state),
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
    return sorted(dict.fromkeys(replica.placement.devices))


def _no_device_is_overcommitted(state: State) -> list[str]:
    return [
        f"{uuid} has {record.device.memory_total_bytes} bytes, "
        f"{state.ledger.claimed_bytes(uuid)} are claimed"
        for uuid, record in state.devices.items()
        if state.ledger.claimed_bytes(uuid) > record.device.memory_total_bytes
    ]


def _no_gpu_has_two_ranks(state: State) -> list[str]:
    """Of one replica; on a CPU they may share."""
    return [
        f"{replica.id} has {replica.placement.devices.count(uuid)} ranks on {uuid}"
        for replica in state.replicas.values()
        if replica.placement is not None and replica.state in HOLDS_DEVICES
        for uuid in dict.fromkeys(replica.placement.devices)
        if replica.placement.devices.count(uuid) > 1
        and uuid in state.devices
        and state.devices[uuid].device.kind != "cpu"
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


def _health_follows_from_the_findings(state: State) -> list[str]:
    found = []
    for uuid, record in state.devices.items():
        condition = record.condition
        worst = health.decisive(condition)
        expected = (Health.HEALTHY, None) if worst is None else (worst.severity, worst.reason)
        if (condition.state, condition.cause) != expected:
            found.append(f"{uuid} is {condition.state} ({condition.cause}), expected {expected}")
        if condition.since_s > state.now_s:
            found.append(f"{uuid} is {condition.state} since a time to come")
        test = condition.self_test
        if test is not None and (test.verdict is None) != (test.ended_at_s is None):
            found.append(f"{uuid}: its self-test has ended and has not")
    return found


def _absent_means_vanished(state: State) -> list[str]:
    return [
        f"{uuid} is {'present' if record.present else 'absent'}, its findings say otherwise"
        for uuid, record in state.devices.items()
        if record.present == (health.VANISHED in _open_kinds(record))
    ]


def _a_host_fault_is_on_all_its_devices(state: State) -> list[str]:
    found = []
    for uuid, record in state.devices.items():
        source = state.sources.get(record.source)
        faulty = source is not None and source.fault is not None
        if faulty != (health.HOST_FAULT in _open_kinds(record)):
            found.append(f"{uuid} and its source {record.source} disagree about a host fault")
    return found


def _open_kinds(record: DeviceRecord) -> list[str]:
    return [one.finding.kind for one in record.condition.open]


def _devices_remember_within_bounds(state: State) -> list[str]:
    found = []
    for uuid, record in state.devices.items():
        condition = record.condition
        keys = [one.finding.key for one in condition.open]
        if len(set(keys)) != len(keys) or len(keys) > health.MOST_OPEN:
            found.append(f"{uuid} has {len(keys)} open findings of {len(set(keys))} keys")
        if max(len(condition.counts) - 1, len(condition.bursts)) > tally.MOST_KEYS:
            found.append(f"{uuid} counts {len(condition.counts)} keys")
        if any(len(times) > tally.MOST_BURSTS for times in condition.bursts.values()):
            found.append(f"{uuid} remembers too many bursts")
    return found
