"""Where `muai devices` gets its picture: from a running controller, or by looking itself."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from muai_core.runtime.observation import DeviceWatch

View = list[dict[str, Any]]


class Picture(Struct, frozen=True, kw_only=True):
    """The devices at one moment, as in docs/cli.md, and what there is to say about them."""

    devices: View
    links: View
    device_sources: View
    #: Why there is nothing to see, a line from each source that can say so.
    absences: list[str]
    #: What the control plane did not believe.
    rejected: list[str]
    #: The pid of the controller that sees it so; None: this command looked itself.
    controller_pid: int | None
    #: Why it is an old picture; None: it is as of now.
    stale: str | None = None

    def faults(self) -> list[str]:
        """What is wrong with the node or a driver, not with a device, a line each."""
        return fault_lines(self.device_sources)

    def remarks(self) -> list[str]:
        """What else people should know, a line each."""
        absences = list(self.absences)
        if absences and not any(device["kind"] == "gpu" for device in self.devices):
            absences[-1] += "; models run on the CPU"
        if not absences and {source["name"] for source in self.device_sources} == {"cpu"}:
            absences.append("only the CPU was looked for; muai-nvml finds NVIDIA GPUs")
        return [*source_complaints(self.device_sources), *self.rejected, *absences]


def fault_lines(sources: View) -> list[str]:
    """The host faults that device sources report."""
    return [
        f"{source['name']}: " + "; ".join(filter(None, (fault["reason"], fault["advice"])))
        for source in sources
        if (fault := source["fault"]) is not None
    ]


def source_complaints(sources: View) -> list[str]:
    """What device sources failed with, a line each."""
    return [
        f"device source {source['name']}: {source['failure']}"
        for source in sources
        if source["failure"] is not None
    ]


class Outlook:
    """Looks as often as it is asked: through the controller's eyes while one runs."""

    def __init__(self, state_dir: Path, file: str | None) -> None:
        """With a config `file` its device sources are looked at, whatever a controller sees."""
        self._state_dir = state_dir
        self._file = file
        self._own: DeviceWatch | None = None

    def look(self) -> Picture:
        """What there is now. May take some seconds; raises as `controller_client.ask` does."""
        if self._file is None and (picture := self._of_controller()) is not None:
            return picture
        return self._of_own()

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None

    def _of_controller(self) -> Picture | None:
        from muai_core.cli.controller_client import NoController, get_devices

        try:
            answer = get_devices(self._state_dir)
        except NoController:
            return None
        return Picture(**answer.body, rejected=[], controller_pid=answer.pid)

    def _of_own(self) -> Picture:
        from muai_core.runtime.device_views import devices_report
        from muai_core.runtime.observation import DeviceWatch

        if self._own is None:
            self._own = DeviceWatch(*_what_to_watch(self._file))
        state = self._own.look()
        observer = self._own.observer
        report = devices_report(state, time.monotonic(), observer.measurements, observer.absences())
        return Picture(**report, rejected=list(state.rejected), controller_pid=None)


def _what_to_watch(file: str | None) -> tuple[Any, ...]:
    """The device sources with their options; of a config also its settings."""
    from muai_core import builtin

    if file is None:
        sources = builtin.load().device_sources.values()
        return ({source: {} for source in sources if source.on_by_default},)
    from muai_core.config import load_config
    from muai_core.runtime.assembly import device_sources
    from muai_core.runtime.observation import without_self_tests
    from muai_core.runtime.resolution import control_settings

    loaded = load_config(file, load_plugins=builtin.load)
    return device_sources(loaded), without_self_tests(control_settings(loaded))
