"""How the replicas that run were launched: what their engines said of themselves then."""

from collections.abc import Collection

from muai_core.plugin.engine import LaunchSpec


class Launches:
    """By replica; a later epoch replaces an earlier one. Used on the event loop."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, LaunchSpec]] = {}

    def add(self, replica_id: str, epoch: int, launch: LaunchSpec) -> None:
        """Called when an engine has said how to start this incarnation."""
        self._known[replica_id] = (epoch, launch)

    def of(self, replica_id: str, epoch: int) -> LaunchSpec | None:
        """None: not known."""
        known = self._known.get(replica_id)
        return known[1] if known is not None and known[0] == epoch else None

    def keep(self, replica_ids: Collection[str]) -> None:
        """Forget all others."""
        for replica_id in self._known.keys() - set(replica_ids):
            del self._known[replica_id]
