"""Device sources: discovery, readings, findings, self-tests."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from muai_core.model.device import Device, Inventory
from muai_core.model.health import Finding
from muai_core.plugin.options import Configurable


class Happening(Struct, frozen=True, kw_only=True):
    """Something that happened between two readings, e.g. an XID."""

    #: The device; None when the source cannot say which: it is told and counted, no more.
    uuid: str | None
    finding: Finding


class SelfTest(Struct, frozen=True, kw_only=True):
    """How to run a self-test of one device: a short-lived process of its own.

    It prints one JSON object as its last line on stdout, a `SelfTestResult`. One that prints
    anything else, or is not done after `timeout_s`, has proven nothing about the device.
    """

    argv: tuple[str, ...]
    #: Added to what engines inherit; the device is made visible to it as it is to an engine.
    env: Mapping[str, str] = {}
    timeout_s: float = 30.0
    #: How much of the device's memory it may take, all included.
    memory_bytes: int


class SelfTestResult(Struct, frozen=True, kw_only=True):
    """What a self-test prints. Neither: passed."""

    #: What is wrong with the device.
    finding: Finding | None = None
    #: Why nothing was proven: no memory left, no driver library.
    inconclusive: str | None = None
    #: What was done and found, in words.
    detail: str = ""


class DeviceSource(Configurable, ABC):
    """A driver that sees devices. It lives in a thread of its own, away from the controller.

    All methods may block and may raise. A raise or a missed deadline becomes an event that names
    the source; the last inventory stays, and the call is repeated at the next interval.

    It lives in the controller's process, from which engines inherit: it leaves the environment and
    the working directory as they are, and loads no CUDA there, whose context would hold memory of
    a device. Whatever needs that belongs into a process of its own.
    """

    #: Whether the source runs when the config's `devices.sources` does not list any.
    on_by_default: bool = True

    def open(self, options: Mapping[str, Any]) -> None:
        """Called once before the first `observe`, with the validated options."""

    def listen(self, tell: Callable[[Happening], None]) -> None:
        """Called once, after `open` and before the first `observe`, by a running controller.

        `tell` may be called from any thread, at any time until `close` returns; it does not block
        and does not raise. A source whose devices send no events has no need of it.
        """

    @abstractmethod
    def observe(self, now_s: float) -> Inventory:
        """Called every `devices.observe_interval_s` seconds: everything that is there now.

        `now_s` is the controller's clock; put it into `Inventory.observed_at_s`. A source that
        finds no hardware returns an empty inventory, it does not raise. It may be called sooner,
        when the controller waits for memory to come back. Devices come in the same order each time.
        """

    def self_test(self, device: Device) -> SelfTest | None:
        """Called when the control plane wants `device` checked. None: this source cannot.

        Called in another thread than `observe`, possibly at the same time.
        """
        return None

    def explain_absence(self) -> str | None:
        """Called after an `observe` that found nothing: why, in one friendly line for people.

        None: there is nothing to say. Must not block or raise.
        """
        return None

    def close(self) -> None:
        """Called once at shutdown: no thread, process or descriptor of the source stays.

        Another call does nothing. A script may open the source again.
        """
