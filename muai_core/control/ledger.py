"""The ledger: which replica epoch holds how many bytes of which device."""

from msgspec import Struct, field

from muai_core.model.placement import Placement


class Claim(Struct, frozen=True):
    """Bytes of one device, bound to one epoch of one replica."""

    replica_id: str
    epoch: int
    memory_bytes: int


class LedgerError(Exception):
    """A claim that breaks the books. The plane checks first; this is a bug if it escapes."""


class Ledger(Struct):
    """Claims by device UUID and replica id. A device without claims has no entry."""

    claims: dict[str, dict[str, Claim]] = field(default_factory=dict)

    def claim(self, replica_id: str, epoch: int, placement: Placement) -> None:
        """Bind the placement's bytes, summed up where ranks share a device.

        Raises LedgerError if the replica holds one of the devices already.
        """
        for uuid in placement.devices:
            if replica_id in self.claims.get(uuid, {}):
                raise LedgerError(f"{replica_id} already holds {uuid}")
        for uuid, memory_bytes in placement.claims_by_device.items():
            self.claims.setdefault(uuid, {})[replica_id] = Claim(replica_id, epoch, memory_bytes)

    def release(self, replica_id: str, epoch: int, devices: tuple[str, ...]) -> None:
        """Free what this epoch holds on `devices`. Raises LedgerError on another epoch's claim."""
        held_on = tuple(dict.fromkeys(devices))
        for uuid in held_on:
            held = self.claims.get(uuid, {}).get(replica_id)
            if held is None or held.epoch != epoch:
                raise LedgerError(f"{replica_id} epoch {epoch} does not hold {uuid}")
        for uuid in held_on:
            del self.claims[uuid][replica_id]
            if not self.claims[uuid]:
                del self.claims[uuid]

    def on(self, uuid: str) -> list[Claim]:
        """All claims on one device."""
        return list(self.claims.get(uuid, {}).values())

    def claimed_bytes(self, uuid: str) -> int:
        return sum(claim.memory_bytes for claim in self.claims.get(uuid, {}).values())
