"""A fake device source that keeps the whole contract, but for one defect."""

import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from muai_core.model.device import (
    Device,
    DeviceLink,
    DeviceMeasurements,
    DeviceReading,
    Inventory,
    Measurement,
)
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import DeviceSource, Happening, SelfTest
from muai_core.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Defect → the number of the clause that it breaks.
DEVICE_SOURCE_DEFECTS: dict[str, str] = {
    "is_neither_on_nor_off": "D01",
    "accepts_any_option": "D02",
    "slow_to_import": "D03",
    "hooks_raise": "D04",
    "gives_a_number_for_words": "D10",
    "observes_too_slowly": "D11",
    "speaks_for_another": "D12",
    "dates_by_its_own_clock": "D13",
    "samples_by_its_own_clock": "D14",
    "renames_devices": "D15",
    "shuffles": "D16",
    "loads_cuda": "D17",
    "hides_devices_from_engines": "D18",
    "gives_a_uuid_twice": "D20",
    "is_nameless": "D21",
    "numbers_all_alike": "D22",
    "reads_strangers": "D23",
    "uses_more_than_there_is": "D24",
    "says_zero_for_unknown": "D25",
    "finds_without_words": "D26",
    "links_twice": "D27",
    "measures_what_nobody_knows": "D28",
    "counts_backwards": "D29",
    "tells_no_happening": "D30",
    "thinks_long_about_absence": "D31",
    "raises_for_strangers": "D40",
    "cannot_do_two_things": "D41",
    "self_test_is_silent": "D42",
    "self_test_leaves_a_process": "D43",
    "closes_too_slowly": "D50",
    "is_confused_by_a_second_close": "D51",
    "tells_after_the_end": "D52",
    "leaves_a_thread": "D53",
    "leaves_a_process": "D54",
    "leaves_a_descriptor": "D55",
    "works_once": "D56",
}

GIB = 1024**3
UUIDS = ("GPU-fake-0", "GPU-fake-1")
_FINDING = Finding(
    kind="hot", severity=Health.DEGRADED, reason="it has 92 °C", advice="check its fans"
)
_XID = Happening(
    uuid=UUIDS[0],
    finding=Finding(
        kind="xid", code=13, severity=Health.HEALTHY, reason="XID 13: graphics exception"
    ),
)
#: Longer than any thread or process of a fake is of use.
_LEFT_FOR_S = 30.0
_LATE_S = 0.05
_BUSY_S = 0.02
_PASSED = 'print(\'{"detail": "computed as expected"}\')'
_LEAVES = f"import subprocess; subprocess.Popen(['sleep', '{_LEFT_FOR_S:g}'])"


@hookimpl
def muai_device_sources() -> Sequence[DeviceSource]:
    return [FakeSource()]


class FakeSource(DeviceSource):
    """Two GPUs. `defect` is one of `DEVICE_SOURCE_DEFECTS`, or none."""

    name = "fake"

    def __init__(self, defect: str = "", too_long_s: float = 10.0) -> None:
        """`too_long_s`: what is too long for the limits in force."""
        self._defect = defect
        self._too_long_s = too_long_s
        if defect == "is_neither_on_nor_off":
            self.on_by_default = "sometimes"  # type: ignore[assignment]
        self._looks = 0
        self._rounds = 0
        self._open = False
        self._observing = False
        self._tell: Callable[[Happening], None] | None = None
        self._teller: threading.Thread | None = None
        self._left: list[object] = []
        self._cuda: mmap.mmap | None = None

    def options_model(self) -> "type[BaseModel]":
        from pydantic import BaseModel, ConfigDict

        extra = "ignore" if self._defect == "accepts_any_option" else "forbid"

        class FakeOptions(BaseModel):
            model_config = ConfigDict(extra=extra)  # type: ignore[typeddict-item]

            memory_gib: int = 80

        return FakeOptions

    def open(self, options: Mapping[str, Any]) -> None:
        self._memory_bytes = options["memory_gib"] * GIB
        self._open = True
        self._rounds += 1
        self._looks = 0
        if self._defect == "works_once" and self._rounds > 1:
            raise RuntimeError("it was opened before")
        if self._defect == "hides_devices_from_engines":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if self._defect == "loads_cuda":
            self._cuda = _mapped("libcuda.so.1")
        if self._defect == "leaves_a_thread":
            wait = threading.Event()
            threading.Thread(target=wait.wait, args=(_LEFT_FOR_S,), daemon=True).start()
        if self._defect == "leaves_a_process":
            self._left.append(subprocess.Popen(["sleep", f"{_LEFT_FOR_S:g}"]))
        if self._defect == "leaves_a_descriptor":
            self._left.append(tempfile.TemporaryFile())  # noqa: SIM115

    def listen(self, tell: Callable[[Happening], None]) -> None:
        self._tell = tell
        told: Any = "XID 13" if self._defect == "tells_no_happening" else _XID
        self._teller = threading.Thread(target=tell, args=(told,), daemon=True)
        self._teller.start()

    def observe(self, now_s: float) -> Inventory:
        self._observing = True
        try:
            return self._inventory(now_s)
        finally:
            self._observing = False

    def _inventory(self, now_s: float) -> Inventory:
        self._looks += 1
        if self._teller is not None:
            self._teller.join()  # So that a kit has heard it for certain.
        if self._defect == "observes_too_slowly" and self._looks == 1:
            time.sleep(self._too_long_s)
        if self._defect == "cannot_do_two_things":
            time.sleep(_BUSY_S)
        devices = tuple(self._device(number) for number in range(len(UUIDS)))
        link = DeviceLink(a=UUIDS[0], b=UUIDS[1], kind="NVL", nvlinks=18)
        links: tuple[DeviceLink, ...] = (link,)
        if self._defect == "links_twice":
            links = (link, DeviceLink(a=UUIDS[1], b=UUIDS[0], kind="NVL", nvlinks=18))
        readings = tuple(self._reading(device.uuid) for device in devices)
        if self._defect == "gives_a_uuid_twice":
            devices = (devices[0], structs.replace(devices[1], uuid=UUIDS[0]))
            links, readings = (), readings[:1]
        if self._defect == "shuffles" and self._looks % 2 == 0:
            devices = devices[::-1]
        if self._defect == "reads_strangers":
            readings = (*readings, DeviceReading(uuid="GPU-of-somebody-else"))
        another = "other" if self._defect == "speaks_for_another" else self.name
        own_clock = self._defect == "dates_by_its_own_clock"
        return Inventory(
            source=another,
            observed_at_s=time.monotonic() if own_clock else now_s,
            devices=devices,
            readings=readings,
            links=links,
            measurements=(DeviceMeasurements(UUIDS[0], self._measured()),),
        )

    def _device(self, number: int) -> Device:
        name = f"Fake GPU {self._looks}" if self._defect == "renames_devices" else "Fake GPU"
        words = self._defect != "gives_a_number_for_words"
        return Device(
            uuid=UUIDS[number],
            node="fake",
            index=0 if self._defect == "numbers_all_alike" else number,
            kind="gpu",
            platform="cuda",
            name="" if self._defect == "is_nameless" else name,
            memory_total_bytes=self._memory_bytes,
            driver_version="580.95.05" if words else 580.95,  # type: ignore[arg-type]
        )

    def _reading(self, uuid: str) -> DeviceReading:
        total, used = self._memory_bytes, GIB
        finding = _FINDING
        if self._defect == "finds_without_words":
            finding = structs.replace(finding, reason="")
        reading = DeviceReading(
            uuid=uuid,
            findings=(finding,) if uuid == UUIDS[1] else (),
            memory_used_bytes=used,
            memory_foreign_bytes=used,
            utilization_percent=0.0,
            temperature_celsius=92.0,
        )
        if self._defect == "uses_more_than_there_is":
            return structs.replace(reading, memory_used_bytes=2 * total)
        if self._defect == "says_zero_for_unknown":
            return structs.replace(reading, power_watts=0.0)
        if self._defect == "samples_by_its_own_clock":
            return structs.replace(reading, sampled_at_s=time.monotonic())
        return reading

    def _measured(self) -> tuple[Measurement, ...]:
        joules = 100 - self._looks if self._defect == "counts_backwards" else 100 + self._looks
        found = (
            Measurement("gpu_energy_joules", float(joules)),
            Measurement("gpu_clock_hertz", 1.98e9, ("sm",)),
        )
        if self._defect == "measures_what_nobody_knows":
            return (*found, Measurement("gpu_mood_ratio", 0.5))
        return found

    def self_test(self, device: Device) -> SelfTest | None:
        if self._defect == "cannot_do_two_things" and self._observing:
            raise RuntimeError("it is busy")
        if device.uuid not in UUIDS:
            if self._defect == "raises_for_strangers":
                raise KeyError(device.uuid)
            return None
        program = _PASSED
        if self._defect == "self_test_is_silent":
            program = "pass"
        if self._defect == "self_test_leaves_a_process":
            program = f"{_LEAVES}; {_PASSED}"
        return SelfTest(argv=(sys.executable, "-I", "-c", program), memory_bytes=GIB)

    def explain_absence(self) -> str | None:
        if self._defect == "thinks_long_about_absence":
            time.sleep(self._too_long_s)
        return "no fake GPU was made"

    def close(self) -> None:
        if not self._open:
            if self._defect == "is_confused_by_a_second_close":
                raise RuntimeError("it is not open")
            return
        self._open = False
        if self._teller is not None:
            self._teller.join()
        if self._defect == "closes_too_slowly":
            time.sleep(self._too_long_s)
        if self._defect == "tells_after_the_end" and self._tell is not None:
            threading.Timer(_LATE_S, self._tell, (_XID,)).start()
        if self._defect == "hides_devices_from_engines":
            del os.environ["CUDA_VISIBLE_DEVICES"]
        if self._cuda is not None:
            self._cuda.close()
        self._tell = self._teller = self._cuda = None


def _mapped(name: str) -> mmap.mmap:
    """A file of that name in the memory of this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(b"no library at all")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
