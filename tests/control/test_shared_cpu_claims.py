"""Replicas whose ranks share a CPU, in the books of the control plane."""

from msgspec import structs

from muai_core import Placement, Shape
from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.invariants import violations
from muai_core.control.ledger import Ledger
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceKind, DeviceReading, Inventory
from muai_core.planning.balanced import Balanced

GIB = 1024**3


def device(uuid: str, kind: DeviceKind, cores: int | None = None) -> Device:
    return Device(
        uuid=uuid,
        node="n1",
        index=0,
        kind=kind,
        platform="cpu" if kind == "cpu" else "cuda",
        name=kind,
        memory_total_bytes=16 * GIB,
        core_count=cores,
    )


def wish(replicas: int = 1, gib: int = 3) -> Deployment:
    return Deployment(
        name="chat",
        source="chat",
        engine="deepspeed",
        replicas=replicas,
        tensor_parallel_size=2,
        pipeline_parallel_size=2,
        platforms=("cpu",),
        memory_bytes_per_device=gib * GIB,
    )


def plane_with(*devices: Device) -> ControlPlane:
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    readings = tuple(DeviceReading(uuid=one.uuid, memory_foreign_bytes=0) for one in devices)
    inventory = Inventory(source="cpu", observed_at_s=0.0, devices=devices, readings=readings)
    plane.step(0.0, [ev.DevicesObserved(inventory=inventory)])
    return plane


def test_a_start_names_the_cpu_for_every_rank_and_its_claim_is_their_sum() -> None:
    plane = plane_with(device("cpu", "cpu", cores=2))

    actions = plane.step(1.0, [ev.DeploymentsDesired(deployments=(wish(),))])

    (start,) = [one for one in actions if isinstance(one, act.StartReplica)]
    assert [one.uuid for one in start.devices] == ["cpu"] * 4
    assert start.placement.stages == (("cpu", "cpu"), ("cpu", "cpu"))
    assert start.deployment.tensor_parallel_size == start.deployment.pipeline_parallel_size == 2
    assert plane.state.ledger.claimed_bytes("cpu") == 12 * GIB
    assert violations(plane.state) == []

    actions = plane.step(2.0, [ev.ReplicaExited(replica_id="chat.0", epoch=1, cause="gone")])

    (release,) = [one for one in actions if isinstance(one, act.ConfirmRelease)]
    assert release.devices == ("cpu",)
    assert violations(plane.state) == []

    plane.step(3.0, [ev.ReplicaReleased(replica_id="chat.0", epoch=1)])

    (claim,) = plane.state.ledger.on("cpu")  # of its next start
    assert (claim.epoch, claim.memory_bytes) == (2, 12 * GIB)
    assert violations(plane.state) == []


def test_two_replicas_that_do_not_fit_together_share_no_cpu() -> None:
    plane = plane_with(device("cpu", "cpu", cores=2))

    plane.step(1.0, [ev.DeploymentsDesired(deployments=(wish(replicas=2),))])

    blocked = [one.blocked for one in plane.state.replicas.values() if one.blocked is not None]
    assert len(blocked) == 1
    assert "needs 12.00 GiB, 4.00 GiB free" in blocked[0].refusals[-1].message
    assert violations(plane.state) == []


def test_a_gpu_with_two_ranks_breaks_an_invariant() -> None:
    plane = plane_with(device("cpu", "cpu", cores=2))
    plane.step(1.0, [ev.DeploymentsDesired(deployments=(wish(),))])
    record = plane.state.devices["cpu"]
    gpu = structs.replace(record, device=structs.replace(record.device, kind="gpu"))

    plane.state.devices["cpu"] = gpu

    assert violations(plane.state) == ["chat.0 has 4 ranks on cpu"]


def test_what_only_the_planner_says_is_no_wish() -> None:
    plane = plane_with(device("cpu", "cpu"))
    odd = structs.replace(wish(), shared_shape=Shape(2, 2))

    plane.step(1.0, [ev.DeploymentsDesired(deployments=(odd,))])

    assert plane.state.deployments == {}


def test_the_books_sum_up_and_release_as_one() -> None:
    ledger = Ledger()
    placement = Placement((("a", "a"), ("a", "b")), (1, 2, 4, 8))

    ledger.claim("chat.0", 1, placement)
    assert (ledger.claimed_bytes("a"), ledger.claimed_bytes("b")) == (7, 8)

    ledger.release("chat.0", 1, placement.devices)
    assert ledger.claims == {}
