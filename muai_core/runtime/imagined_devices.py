"""Boxes as an inventory: what their device source would report if they were there, and idle."""

import uuid
from collections.abc import Iterable, Iterator, Sequence

from muai_core.model.device import Device, DeviceLink, DeviceReading, Inventory
from muai_core.runtime.fleet_spec import MOST_GPUS, Box, CardGroup, FleetError

#: The device source of everything that is only planned with.
SOURCE = "inventory"
_NAMESPACE = uuid.UUID("c1d7a3f6-52d0-5b0e-9f4e-0d6f3c2b8a41")


def inventory_of(boxes: Sequence[Box]) -> Inventory:
    """All GPUs of the boxes. The same boxes have the same UUIDs in every process.

    A box has two sockets: the first half of its GPUs hangs on NUMA node 0, the second on node 1.
    GPUs reach each other over the NVLinks of their card, else through PCIe: within a NUMA node
    over several host bridges, across NUMA nodes over the link between the sockets. Raises
    FleetError when there are too many, or a name stands for two boxes.
    """
    devices: list[Device] = []
    readings: list[DeviceReading] = []
    links: list[DeviceLink] = []
    total = sum(box.count * box.gpu_count for box in boxes)
    if total > MOST_GPUS:
        raise FleetError(f"{total} GPUs; at most {MOST_GPUS} are possible")
    taken: set[str] = set()
    for node, box in _nodes(boxes):
        if node in taken:
            raise FleetError(f"two boxes are called {node!r}; give each a name of its own")
        taken.add(node)
        here = list(_devices(node, box))
        devices += [device for device, _ in here]
        readings += [reading for _, reading in here]
        links += _links([device for device, _ in here], box)
    return Inventory(
        source=SOURCE,
        observed_at_s=0.0,
        devices=tuple(devices),
        readings=tuple(readings),
        links=tuple(links),
    )


def _nodes(boxes: Sequence[Box]) -> Iterator[tuple[str, Box]]:
    """Every single box with its name: `box`, or `box-0`, `box-1` where several have none."""
    unnamed = sum(box.count for box in boxes if box.name is None)
    number = 0
    for box in boxes:
        for place in range(box.count):
            if box.name is not None:
                yield (box.name if box.count == 1 else f"{box.name}-{place}"), box
            else:
                yield ("box" if unnamed == 1 else f"box-{number}"), box
                number += 1


def _devices(node: str, box: Box) -> Iterator[tuple[Device, DeviceReading]]:
    first = 0
    second_socket = (box.gpu_count + 1) // 2
    for group in box.groups:
        for offset in range(group.count):
            index = first + offset
            device = Device(
                uuid=f"GPU-{uuid.uuid5(_NAMESPACE, f'{group.name}/{node}/{index}')}",
                node=node,
                index=index,
                cuda_index=index,
                kind="gpu",
                platform="cuda",
                name=group.card.marketing_name,
                memory_total_bytes=group.card.memory_total_bytes,
                island=_island(node, group, first, offset),
                vendor="NVIDIA",
                compute_capability=group.card.compute_capability,
                numa_node=int(index >= second_socket),
            )
            foreign = box.foreign_bytes.get(index, group.foreign_bytes)
            yield (
                device,
                DeviceReading(
                    uuid=device.uuid,
                    memory_used_bytes=foreign,
                    memory_foreign_bytes=foreign,
                    memory_reserved_bytes=group.card.memory_reserved_bytes,
                    memory_free_bytes=group.card.memory_usable_bytes - foreign,
                ),
            )
        first += group.count


def _island(node: str, group: CardGroup, first: int, offset: int) -> str | None:
    if not group.card.nvlink:
        return None
    size = group.island_size or group.card.island_size or group.count
    # Named after its first GPU, which no other island of the node has.
    return f"{node}/nvlink-{first + offset - offset % size}"


def _links(devices: Sequence[Device], box: Box) -> Iterable[DeviceLink]:
    told = {
        (min(link.between), max(link.between)): DeviceLink(
            a=devices[min(link.between)].uuid,
            b=devices[max(link.between)].uuid,
            kind=link.kind,
            nvlinks=link.nvlinks,
        )
        for link in box.links
    }
    nvlinks = [group.card.nvlinks for group in box.groups for _ in range(group.count)]
    for a, device in enumerate(devices):
        for b in range(a + 1, len(devices)):
            yield told.get((a, b)) or _link(device, devices[b], nvlinks[a])


def _link(a: Device, b: Device, nvlinks: int) -> DeviceLink:
    if a.island is not None and a.island == b.island:
        return DeviceLink(a=a.uuid, b=b.uuid, kind="NVL", nvlinks=nvlinks)
    return DeviceLink(a=a.uuid, b=b.uuid, kind="NODE" if a.numa_node == b.numa_node else "SYS")
