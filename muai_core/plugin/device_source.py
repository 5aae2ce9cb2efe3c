"""Device sources: discovery, readings, health."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from muai_core.model.device import Inventory
from muai_core.plugin.options import Configurable


class DeviceSource(Configurable, ABC):
    """A driver that sees devices. It lives in a thread of its own, away from the controller.

    All methods may block and may raise. A raise or a missed deadline becomes an event that names
    the source; the last inventory stays, and the call is repeated at the next interval.
    """

    #: Whether the source runs when the config's `devices.sources` does not list any.
    on_by_default: bool = True

    def open(self, options: Mapping[str, Any]) -> None:
        """Called once before the first `observe`, with the validated options."""

    @abstractmethod
    def observe(self, now_s: float) -> Inventory:
        """Called every `devices.observe_interval_s` seconds: everything that is there now.

        `now_s` is the controller's clock; put it into `Inventory.observed_at_s`. A source that
        finds no hardware returns an empty inventory, it does not raise.
        """

    def close(self) -> None:
        """Called once at shutdown."""
