"""Which devices a replica gets, or why it gets none."""

from msgspec import Struct

from muai_core.model.memory import Shape


class Placement(Struct, frozen=True):
    """Chosen devices: `stages[s][t]` is the UUID for pipeline stage s, tensor-parallel rank t.

    `claims` gives the bytes claimed on each device, in the order of `devices`. A strategy may leave
    it empty, and `layers` too: then the planner cuts the layers and claims what each rank needs.
    Ranks on a CPU share it: then the device is named once for each of them. Never so a GPU.
    """

    stages: tuple[tuple[str, ...], ...]
    claims: tuple[int, ...] = ()
    #: One line for people: why these devices.
    reason: str = ""
    #: Layers of each stage, as for VLLM_PP_LAYER_PARTITION; empty: left to the engine.
    layers: tuple[int, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """All UUIDs in rank order: rank = stage × tensor_parallel_size + t."""
        return tuple(uuid for stage in self.stages for uuid in stage)

    @property
    def claims_by_device(self) -> dict[str, int]:
        """The bytes that all ranks on a device claim of it together. Raises ValueError unless
        there is one claim for each rank."""
        found = dict.fromkeys(self.devices, 0)
        for uuid, claim in zip(self.devices, self.claims, strict=True):
            found[uuid] += claim
        return found

    @property
    def shape(self) -> Shape:
        """Raises IndexError when there is no stage."""
        return Shape(len(self.stages[0]), len(self.stages))


class Refusal(Struct, frozen=True):
    """Why one device (or, with device None, the whole fleet) was refused, and by which filter."""

    device: str | None
    filter: str
    message: str


class Unplaceable(Struct, frozen=True):
    """No placement exists now; the refusals say why, device by device."""

    summary: str
    refusals: tuple[Refusal, ...] = ()
