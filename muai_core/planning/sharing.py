"""Replicas whose ranks share a device: on CPUs. To filters and strategies they are one rank. Pure.

A node's CPU is one device, and its cores and its memory serve any number of processes. So all ranks
of a replica go on one CPU device, whatever their shape; they need the sum of their bytes there, and
a strategy has one device to choose. GPUs are never shared by two ranks of a replica.
"""

from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, Platform
from muai_core.model.memory import even_partition
from muai_core.model.placement import Placement

#: Of one replica on one device, whatever its cores: each is a process with its own interpreter.
RANKS_MAX = 64


def folded(deployment: Deployment, platform: Platform | None) -> Deployment:
    """The deployment as one rank that stands for all, if its ranks share a device there.

    Of several allowed shapes it is the cheapest: more ranks on the same cores bring nothing.
    """
    shape = deployment.shapes[0]
    if platform != "cpu" or shape.device_count == 1:
        return deployment
    stages = [need for need in deployment.even_rank_bytes(shape) if need is not None]
    known = len(stages) == shape.pipeline_parallel_size
    return structs.replace(
        deployment,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        memory=None,
        memory_bytes_per_device=sum(stages) * shape.tensor_parallel_size if known else None,
        shared_shape=shape,
    )


def unfolded(placement: Placement, deployment: Deployment, one_rank: Deployment) -> Placement:
    """The placement of `one_rank`, which `deployment` was folded to, with every rank and its claim.

    The layers are cut evenly: the stages' devices are alike. What is claimed beyond the ranks'
    needs goes to the first; where the need is unknown, all claim alike.
    """
    shape = one_rank.shared_shape
    if shape is None:
        return placement
    width, stages = shape.tensor_parallel_size, shape.pipeline_parallel_size
    layers: tuple[int, ...] = ()
    if deployment.memory is not None:
        layers = even_partition(deployment.memory.at(width).layer_count, stages)
    claimed = sum(placement.claims)
    if one_rank.memory_bytes_per_device is None:
        claims = [claimed // shape.device_count] * shape.device_count
    else:
        claims = [need or 0 for need in deployment.even_rank_bytes(shape) for _ in range(width)]
    claims[0] += claimed - sum(claims)
    device = placement.devices[0]
    return structs.replace(
        placement,
        stages=((device,) * width,) * stages,
        claims=tuple(claims),
        layers=layers,
        reason=f"{placement.reason or 'chosen by the strategy'}; all {shape.device_count} ranks "
        "share the CPU",
    )


def refusal(one_rank: Deployment, device: Device) -> str | None:
    """Why the ranks that `one_rank` stands for cannot share this device; None: they can.

    The ranks of a stage compute at the same time and spin while they wait for each other, so each
    needs a core; stages mostly take turns.
    """
    shape = one_rank.shared_shape
    if shape is None:
        return None
    if device.kind != "cpu":
        return f"{shape} needs a device for each rank; only CPUs are shared"
    cores = device.core_count
    if cores is not None and shape.tensor_parallel_size > cores:
        return f"{shape} needs a core for each rank of a stage, this CPU has {cores}"
    if shape.device_count > RANKS_MAX:
        return f"{shape} is {shape.device_count} ranks, at most {RANKS_MAX} share a CPU"
    return None
