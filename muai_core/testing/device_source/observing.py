"""Clauses on the way a device source observes: when, for whom, how long, and always the same."""

from collections.abc import Iterable

from muai_core.model.device import Device, Inventory
from muai_core.testing import registration, surroundings
from muai_core.testing.clauses import ClauseFailure, clause
from muai_core.testing.device_source.subject import DeviceSourceSubject, malformed

#: Mapped into a process, the CUDA driver is there; one call more makes a context.
_CUDA_DRIVER = "libcuda.so"


@clause("D10", kind="device source", title="it opens, and each observation is an inventory")
def _(subject: DeviceSourceSubject) -> None:
    if (failure := subject.why_not()) is not None:
        raise failure
    for observation in subject.first().observations:
        answer = observation.answer
        if not isinstance(answer, Inventory):
            raise ClauseFailure(f"observe() returns {type(answer).__name__}, not Inventory")
        if (reason := malformed(answer)) is not None:
            raise ClauseFailure(f"observe() returns an Inventory that is malformed: {reason}")


@clause("D11", kind="device source", title="an observation is done in time")
def _(subject: DeviceSourceSubject) -> None:
    limit_s = subject.limits.observe_s
    for number, observation in enumerate(subject.first().observations, 1):
        if observation.took_s > limit_s:
            raise ClauseFailure(
                f"observation {number} took {observation.took_s:.2f} s, and may take {limit_s:g} s"
            )


@clause("D12", kind="device source", title="it speaks for itself and for no other source")
def _(subject: DeviceSourceSubject) -> None:
    for _, inventory in subject.inventories():
        if inventory.source != subject.source.name:
            raise ClauseFailure(
                f"Inventory.source is {inventory.source!r}, its name is {subject.source.name!r}"
            )


@clause("D13", kind="device source", title="an inventory bears the time at which it was asked for")
def _(subject: DeviceSourceSubject) -> None:
    for observation, inventory in subject.inventories():
        if inventory.observed_at_s != observation.asked_at_s:
            raise ClauseFailure(
                f"Inventory.observed_at_s is {inventory.observed_at_s!r} where observe() was "
                f"called with {observation.asked_at_s!r}"
            )


@clause("D14", kind="device source", title="samples bear times of the controller's clock")
def _(subject: DeviceSourceSubject) -> None:
    opened_at_s = subject.first().opened_at_s
    for observation, inventory in subject.inventories():
        for reading in inventory.readings:
            at_s = reading.sampled_at_s
            if at_s is not None and not opened_at_s <= at_s <= observation.ended_at_s:
                raise ClauseFailure(
                    f"sampled_at_s of {reading.uuid} is {at_s!r}: neither since it was opened, at "
                    f"{opened_at_s:.3f}, nor up to now, {observation.ended_at_s:.3f}"
                )


@clause("D15", kind="device source", title="devices stay the same from one look to the next")
def _(subject: DeviceSourceSubject) -> None:
    known = _by_uuid(subject.devices())
    for _, inventory in subject.inventories()[1:]:
        now = _by_uuid(inventory.devices)
        if set(now) != set(known):
            raise ClauseFailure("the UUIDs are others at another look")
        for place, first in known.items():
            for field in first.__struct_fields__:
                one, other = getattr(first, field), getattr(now[place], field)
                if one != other:
                    raise ClauseFailure(
                        f"{field} of {first.uuid} is {one!r}, and {other!r} at another look"
                    )


def _by_uuid(devices: Iterable[Device]) -> dict[tuple[str, int], Device]:
    """By UUID, and by a number for those that share one."""
    found: dict[tuple[str, int], Device] = {}
    for device in sorted(devices, key=lambda device: (device.uuid, device.index)):
        number = sum(uuid == device.uuid for uuid, _ in found)
        found[device.uuid, number] = device
    return found


@clause("D16", kind="device source", title="devices come in the same order at every look")
def _(subject: DeviceSourceSubject) -> None:
    subject.devices()
    orders = [[d.uuid for d in inventory.devices] for _, inventory in subject.inventories()]
    for order in orders:
        if sorted(order) == sorted(orders[0]) and order != orders[0]:
            raise ClauseFailure(f"the order is {', '.join(orders[0])}, then {', '.join(order)}")


@clause("D17", kind="device source", title="it loads neither CUDA nor an engine's stack")
def _(subject: DeviceSourceSubject) -> None:
    before = subject.before()
    subject.opened()
    now = surroundings.look()
    new = now.modules - before.modules
    if heavy := [name for name in registration.ENGINE_STACKS if name in new]:
        raise ClauseFailure(f"it imports {', '.join(heavy)} into the controller")
    if any(name.startswith(_CUDA_DRIVER) for name in now.mapped - before.mapped):
        raise ClauseFailure(
            f"it loads {_CUDA_DRIVER} into the controller, where a context would take memory of "
            "the device until the end; use a process of its own"
        )


@clause("D18", kind="device source", title="it changes nothing that engines inherit")
def _(subject: DeviceSourceSubject) -> None:
    before = subject.before()
    subject.opened()
    if changed := surroundings.changes(before):
        raise ClauseFailure(f"it changes {', '.join(changed)} of the controller's process")
