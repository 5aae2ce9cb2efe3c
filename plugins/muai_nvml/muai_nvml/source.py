"""The device source `nvml`: NVIDIA GPUs, seen through probe processes that may hang or die."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muai_core.model.device import Device, HostFault, Inventory
from muai_core.plugin.device_source import DeviceSource, Happening, SelfTest
from muai_nvml import absence

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_nvml.assemble import Assembler
    from muai_nvml.config import NvmlOptions
    from muai_nvml.fleet import Fleet
    from muai_nvml.watch import Watch

#: How long the answer "no driver here" is good where only NVML itself can tell.
_ABSENT_FOR_S = 60.0
#: So many failures of the probe in a row are not over in a moment.
_FAILURES_TOO_MANY = 3


class ProbeFailed(Exception):
    """The probe process cannot be kept running; the text says why."""


class NvmlSource(DeviceSource):
    """NVML is never called, nor even loaded, in this process. An observation takes milliseconds,
    half a second while a GPU does not answer, and `ROUND_LIMIT_S` at most."""

    name = "nvml"

    def __init__(self, command: tuple[str, ...] | None = None) -> None:
        """`command` starts a probe; by default `python -m muai_nvml.probe`."""
        self._command = command
        self._options: NvmlOptions | None = None
        self._tell: Callable[[Happening], None] | None = None
        self._watch: Watch | None = None
        self._assembler: Assembler | None = None
        self._absence: str | None = None
        self._not_there: str | None = None
        self._absent_until_s = 0.0

    def options_model(self) -> "type[BaseModel]":
        from muai_nvml.config import NvmlOptions

        return NvmlOptions

    def open(self, options: Mapping[str, Any]) -> None:
        """Raises pydantic's ValidationError (a ValueError) on wrong options."""
        from muai_nvml.config import NvmlOptions

        self._options = NvmlOptions.model_validate(dict(options))

    def listen(self, tell: Callable[[Happening], None]) -> None:
        self._tell = tell

    def observe(self, now_s: float) -> Inventory:
        """Raises ProbeFailed when the probe process dies again and again. When it goes on doing so
        and there are GPUs, that is a fault of the host."""
        if self._options is None:
            raise RuntimeError("the NVML device source has not been opened")
        self._absence = self._why_absent(self._options)
        if self._absence is not None:
            return Inventory(source=self.name, observed_at_s=now_s, devices=())
        found: list[Inventory] = []

        def use(fleet: "Fleet", asked_at_s: float) -> None:
            found.append(self._inventory(fleet, now_s, asked_at_s))

        self._opened_watch(self._options).round(use)
        if not found[0].devices and found[0].fault is None and self._absence is None:
            self._absence = absence.NO_GPU
        if self._absence not in (None, absence.NO_GPU):
            # No process is kept for a driver that is not there.
            self._absent_until_s = time.monotonic() + _ABSENT_FOR_S
            self._not_there = self._absence
            self._close_watch()
        return found[0]

    def self_test(self, device: Device) -> SelfTest | None:
        from muai_nvml.self_test import self_test_of

        return self_test_of(device)

    def explain_absence(self) -> str | None:
        return self._absence

    def close(self) -> None:
        """Leaves no process behind, unless one is stuck in the driver."""
        self._close_watch()

    def _why_absent(self, options: "NvmlOptions") -> str | None:
        """None: NVML must be asked."""
        if self._watch is not None or self._known:
            return None
        if not absence.may_find_library(options.library_dir):
            return absence.NO_LIBRARY
        return self._not_there if time.monotonic() < self._absent_until_s else None

    @property
    def _known(self) -> bool:
        return self._assembler is not None and self._assembler.knows_devices

    def _opened_watch(self, options: "NvmlOptions") -> "Watch":
        if self._watch is not None and not self._watch.closed:
            return self._watch
        from muai_nvml.assemble import Assembler, Settings
        from muai_nvml.happenings import Teller
        from muai_nvml.watch import PROBE_COMMAND, Watch, WatchSettings

        node = socket.gethostname()
        if self._assembler is None:
            settings = Settings(
                source=self.name,
                node=node,
                thresholds=options.thresholds.as_thresholds(),
                misses_until_failed=options.misses_until_failed,
            )
            self._assembler = Assembler(settings)
        teller = Teller(
            self._tell or _tell_nobody, options.xid_actions, options.misses_until_failed
        )
        self._watch = Watch(
            WatchSettings(
                node=node,
                deadline_s=options.deadline_s,
                slow_interval_s=options.slow_interval_s,
                events=self._tell is not None,
                env=_environment(options.library_dir),
                command=self._command or PROBE_COMMAND,
            ),
            teller,
        )
        return self._watch

    def _close_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _inventory(self, fleet: "Fleet", now_s: float, asked_at_s: float) -> Inventory:
        """In the watch's thread."""
        assert self._assembler is not None
        fault = None
        if fleet.main is None or fleet.main.gpus is None:
            fault = self._why_nothing_works(fleet)
        return self._assembler.inventory(
            fleet.slots.values(),
            fleet.linked.links,
            asked_at_s=asked_at_s,
            observed_at_s=now_s,
            fault=fault,
            undead={index: fleet.burials.undead(index) for index in fleet.slots},
        )

    def _why_nothing_works(self, fleet: "Fleet") -> HostFault | None:
        """None: there is no driver. Raises ProbeFailed: no GPU is known, or it may soon be over."""
        from muai_nvml import return_codes

        failure = fleet.init_failure
        if failure is not None:
            if not self._known and failure.code == return_codes.LIBRARY_NOT_FOUND:
                self._absence = absence.NO_LIBRARY
                return None
            if (
                not self._known
                and failure.code == return_codes.DRIVER_NOT_LOADED
                and not absence.driver_traces()
            ):
                self._absence = absence.NO_DRIVER
                return None
            return return_codes.host_fault_of(failure.code, failure.text)
        if fleet.init_hangs or (fleet.main is not None and fleet.main.running):
            return HostFault(
                kind="nvml_unresponsive",
                reason="NVML does not start: nvmlInit does not return",
                advice="look into the kernel log (dmesg) for XIDs 119 and 120; reboot the node",
            )
        trouble = fleet.trouble or "the NVML probe process does not start"
        if self._known and fleet.failures >= _FAILURES_TOO_MANY:
            # What was last heard of the GPUs says less and less of them.
            return HostFault(
                kind="probe_failed",
                reason=f"the process that asks NVML fails again and again: {trouble}",
                advice="look into the kernel log and at nvidia-smi; NVML or MuAI may have crashed",
            )
        raise ProbeFailed(trouble)


def _environment(library_dir: str | None) -> dict[str, str]:
    env = dict(os.environ)
    if library_dir is not None:
        env["LD_LIBRARY_PATH"] = ":".join(
            path for path in (library_dir, env.get("LD_LIBRARY_PATH")) if path
        )
    return env


def _tell_nobody(happening: Happening) -> None:
    """Where nobody listens, as in commands that look once."""
