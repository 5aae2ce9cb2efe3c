"""How devices look: bars on terminals of any width, plain text elsewhere."""

import io
import itertools
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from muai_core.cli import output
from muai_core.cli.device_table import drawn, print_devices
from muai_core.model.device import (
    Device,
    DeviceMeasurements,
    DeviceProcess,
    DeviceReading,
    HostFault,
    Inventory,
    Measurement,
)
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.device_views import devices_report
from muai_core.runtime.observation import DeviceWatch

GIB = 1024**3
REASON = "XID 79: fell off the bus"
ADVICE = "reboot the node"
LIMITS = (
    Measurement("gpu_power_limit_watts", 700.0),
    Measurement("gpu_temperature_limit_celsius", 92.0, ("slowdown",)),
    Measurement("gpu_temperature_limit_celsius", 87.0, ("gpu_max",)),
)


class Rack(DeviceSource):
    """Four GPUs of one node, each in a way of its own, the last one a MIG instance."""

    name = "rack"
    fault: HostFault | None = None

    def observe(self, now_s: float) -> Inventory:
        devices = [
            Device(
                uuid=f"GPU-{index}",
                node="rack-1",
                index=index,
                kind="gpu",
                platform="cuda",
                name="NVIDIA H100 80GB HBM3",
                memory_total_bytes=80 * GIB,
                mig_index=1 if index == 3 else None,
            )
            for index in range(4)
        ]
        lost = Finding(
            kind="xid",
            code=79,
            severity=Health.FAILED,
            reason=REASON,
            advice=ADVICE,
            recovery="reboot",
        )
        readings = (
            DeviceReading(
                uuid="GPU-0",
                memory_used_bytes=60 * GIB,
                memory_foreign_bytes=20 * GIB,
                memory_reserved_bytes=10 * GIB,
                memory_free_bytes=10 * GIB,
                utilization_percent=97.0,
                temperature_celsius=86.0,
                power_watts=612.4,
                processes=(
                    DeviceProcess(11, 40 * GIB, "vllm", True),
                    *(DeviceProcess(20 + i, i * GIB, "python", False) for i in range(1, 5)),
                ),
            ),
            DeviceReading(uuid="GPU-1", findings=(lost,)),
            DeviceReading(uuid="GPU-2", memory_used_bytes=1, memory_foreign_bytes=1),
            DeviceReading(uuid="GPU-3", memory_used_bytes=0, memory_foreign_bytes=0),
        )
        return Inventory(
            source=self.name,
            observed_at_s=now_s,
            devices=tuple(devices),
            readings=readings,
            fault=self.fault,
            measurements=(DeviceMeasurements("GPU-0", LIMITS),),
        )


def report(source: DeviceSource) -> dict[str, Any]:
    watch = DeviceWatch({source: {}})
    try:
        state = watch.look()
        return devices_report(state, state.now_s, watch.observer.measurements, [])
    finally:
        watch.close()


@pytest.fixture(scope="module")
def devices() -> Any:
    found = report(Rack())["devices"]
    found[0]["replicas"] = ["chat.0", "embed.1"]
    return found


def lines(devices: Any, width: int, encoding: str = "utf-8") -> list[str]:
    """The picture on a terminal of this width, without colours."""
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=written, width=width, highlight=False, color_system=None)
    console.print(drawn(devices, console))
    written.flush()
    text: bytes = written.buffer.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.decode(encoding).splitlines()]


def test_a_wide_terminal_shows_everything_on_one_line(devices: Any) -> None:
    heading, first, *_ = lines(devices, 180)
    assert heading.split() == [
        *("device", "name", "memory", "used", "/", "total", "ours", "foreign", "free"),
        *("util", "temp", "power", "health", "replicas"),
    ]
    assert first.startswith("rack-1/gpu0    NVIDIA H100 80GB HBM3  ████████████▓▓▓▓▓▓▒▒▒░░░  ")
    assert first.endswith(
        "60.0 / 80.0 GiB  40.0     20.0  10.0  97 %  86/87 °C  612/700 W  healthy  chat.0 embed.1"
    )


def test_trouble_stands_below_its_device_with_what_to_do(devices: Any) -> None:
    shown = lines(devices, 180)
    place = next(i for i, line in enumerate(shown) if line.startswith("rack-1/gpu1"))
    assert "failed" in shown[place]
    assert shown[place + 1] == f"    {REASON}; {ADVICE}"


def test_the_largest_foreign_processes_are_told(devices: Any) -> None:
    (told,) = [line for line in lines(devices, 180) if "foreign:" in line]
    assert told.strip() == (
        "foreign: python 24 (4.00 GiB), python 23 (3.00 GiB), python 22 (2.00 GiB), 1 more"
    )


def test_the_legend_explains_the_bars(devices: Any) -> None:
    assert lines(devices, 180)[-1] == "█ ours  ▓ foreign  ▒ reserved  ░ free"


def test_a_byte_shows_and_a_silent_device_has_no_bar(devices: Any) -> None:
    bars = ["".join(c for c in line if c in "█▓▒░") for line in lines(devices, 180)[1:-1]]
    by_device = [bar for bar in bars if bar]
    assert [len(bar) for bar in by_device] == [24, 24, 24]
    assert by_device[1] == "▓" + "░" * 23
    assert by_device[2] == "░" * 24


def test_a_mig_instance_is_named_after_its_gpu(devices: Any) -> None:
    assert any(line.startswith("rack-1/gpu3:1 ") for line in lines(devices, 180))


@pytest.mark.parametrize("width", range(20, 200, 4))
def test_no_terminal_is_too_narrow(devices: Any, width: int) -> None:
    shown = lines(devices, width)
    assert max(map(len, shown)) <= width
    if width >= 44:
        for index in range(4):
            assert any(f"rack-1/gpu{index}" in line for line in shown)
        assert any("failed" in line for line in shown)
    text = " ".join(" ".join(shown).split())
    assert ADVICE in text
    assert "chat.0" in text


def test_what_finds_no_room_goes_in_order(devices: Any) -> None:
    """Details of the memory go first, then replicas below, then name, power and temperature."""
    headings = [lines(devices, width)[0] for width in range(200, 40, -1)]
    gone = [
        next(i for i, heading in enumerate(headings) if word not in heading)
        for word in ("ours", "foreign", "free", "replicas", "name", "power", "temp", "util")
    ]
    assert all(earlier < later for earlier, later in itertools.pairwise(gone))


def test_a_name_is_shortened_before_it_goes(devices: Any) -> None:
    assert any("NVIDIA H100…" in line for width in range(60, 140) for line in lines(devices, width))


def test_a_terminal_without_unicode_gets_ascii(devices: Any) -> None:
    shown = lines(devices, 180, "latin-1")
    assert "############xxxxxx===..." in shown[1]
    assert shown[-1] == "# ours  x foreign  = reserved  . free"


def test_no_devices_at_all_are_told() -> None:
    assert lines([], 80) == ["no devices"]


def test_a_device_that_could_never_be_asked_has_no_size(devices: Any) -> None:
    rack = Rack()
    observe = rack.observe

    def sizeless(now_s: float) -> Inventory:
        found = observe(now_s)
        nothing = structs.replace(found.devices[1], memory_total_bytes=0)
        return structs.replace(found, devices=(found.devices[0], nothing, *found.devices[2:]))

    rack.observe = sizeless  # type: ignore[method-assign]
    shown = report(rack)["devices"]
    assert shown[1]["memory_total_bytes"] is None
    (line,) = [line for line in lines(shown, 180) if "gpu1" in line]
    assert "GiB" not in line


def test_plain_text_has_every_column(devices: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_devices(devices)
    heading, first, failed, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        *("DEVICE", "NAME", "MEMORY", "USED", "OURS", "FOREIGN", "FREE"),
        *("UTIL", "TEMP", "POWER", "HEALTH", "REPLICAS", "REASON"),
    ]
    assert "86/87 °C  612/700 W  healthy  chat.0 embed.1  -" in first
    assert failed.endswith(f"failed   -               {REASON}; {ADVICE}")


def test_control_characters_do_not_reach_the_terminal(
    devices: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = [{**devices[1], "name": "\x1b[31mred", "health_reason": "a\x1b[2Jb"}]
    print_devices(hostile)
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    assert "\x1b" not in capsys.readouterr().out
    assert not any("\x1b" in line for line in lines(hostile, 120))


def test_a_fault_of_the_host_stands_above_and_blames_no_device(
    muai: Any, tmp_path: Any, fleet_config: Any
) -> None:
    file = fleet_config("  chat: {source: weights, engine: fake}\n")
    (tmp_path / "sick.py").write_text(
        "from muai_core import DeviceSource, HostFault, Inventory, hookimpl\n"
        "class Sick(DeviceSource):\n"
        "    name = 'sick'\n"
        "    def observe(self, now_s):\n"
        "        fault = HostFault(kind='no_permission', reason='/dev/nvidia0 may not be opened',\n"
        "                          advice='add the user to the group video')\n"
        "        return Inventory(source='sick', observed_at_s=now_s, devices=(), fault=fault)\n"
        "@hookimpl\n"
        "def muai_device_sources():\n"
        "    return [Sick()]\n"
    )
    text = (tmp_path / file).read_text()
    text = text.replace("[fake_fleet.py]", "[fake_fleet.py, sick.py]")
    (tmp_path / file).write_text(text.replace("sources: [fake]", "sources: [sick, cpu]"))
    line = "sick: /dev/nvidia0 may not be opened; add the user to the group video"
    done = muai("devices", file)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == line
    as_json = muai("devices", file, "--json")
    assert as_json.err == line + "\n"
    assert '"cpu"' in as_json.out


def test_devices_behind_a_fault_of_the_host_are_unknown_not_failed() -> None:
    rack = Rack()
    rack.fault = HostFault(kind="no_permission", reason="no", advice="do")
    found = report(rack)
    assert {device["health"] for device in found["devices"]} == {"unknown"}
    assert found["device_sources"][0]["fault"] == {
        "kind": "no_permission",
        "reason": "no",
        "advice": "do",
    }
