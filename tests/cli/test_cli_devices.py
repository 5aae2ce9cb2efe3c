"""muai devices and muai plugins: what there is."""

import json
import threading
from pathlib import Path
from typing import Any

from msgspec import structs

from muai_core.control.state import State
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.device_views import devices_view
from muai_core.runtime.observation import DeviceWatch

HERE = Path(__file__).parent
MODEL = "  chat: {source: weights, engine: fake}\n"
PROMISED = {
    "uuid",
    "index",
    "kind",
    "name",
    "memory_total_bytes",
    "memory_used_bytes",
    "memory_free_bytes",
    "utilization_percent",
    "temperature_celsius",
    "health",
    "health_reason",
}


def test_the_devices_of_a_config_are_a_table(muai: Any, fleet_config: Any) -> None:
    done = muai("devices", fleet_config(MODEL))
    assert (done.status, done.err) == (0, "")
    assert done.out == (HERE / "golden" / "devices.txt").read_text()


def test_the_devices_as_json(muai: Any, fleet_config: Any) -> None:
    devices = json.loads(muai("devices", fleet_config(MODEL), "--json").out)
    assert [device["index"] for device in devices] == [0, 1, 2, 3]
    assert all(set(device) >= PROMISED for device in devices)
    first, last = devices[0], devices[3]
    assert first["memory_free_bytes"] == 78 * 1024**3
    assert first["utilization_percent"] == 12.4
    # What a device does not tell is unknown, never zero.
    for key in ("memory_used_bytes", "memory_free_bytes", "temperature_celsius", "power_watts"):
        assert last[key] is None
    assert (last["health"], last["health_reason"]) == ("failed", "fell off the bus (XID 79)")


def test_without_a_gpu_the_cpu_is_listed_with_a_friendly_word(muai: Any) -> None:
    done = muai("devices")
    assert done.status == 0
    # Here no device source for GPUs is installed, which may be why.
    assert done.err == "only the CPU was looked for; muai-nvml finds NVIDIA GPUs\n"
    word, headings, *rows = done.out.splitlines()
    assert word == "No GPU was found; models run on the CPU."
    assert headings.startswith("DEVICE")
    assert len(rows) == 1
    assert "/cpu0" in rows[0]


class Source(DeviceSource):
    """A device source of one GPU that does what it is told."""

    def __init__(self, name: str, uuid: str = "GPU-1") -> None:
        self.name = name
        self.uuid = uuid
        self.closed = 0

    def observe(self, now_s: float) -> Inventory:
        device = Device(
            uuid=self.uuid,
            node="n",
            index=0,
            kind="gpu",
            platform="cuda",
            name="G",
            memory_total_bytes=1,
        )
        reading = DeviceReading(uuid=self.uuid, memory_used_bytes=2)
        return Inventory(
            source=self.name, observed_at_s=now_s, devices=(device,), readings=(reading,)
        )

    def close(self) -> None:
        self.closed += 1


class Raising(Source):
    def observe(self, now_s: float) -> Inventory:
        raise RuntimeError("driver/library version mismatch")


class Foreign(Source):
    def observe(self, now_s: float) -> Inventory:
        return structs.replace(super().observe(now_s), source="somebody else")


def seen(*sources: Source, deadline_s: float = 10.0) -> State:
    """What a look at these sources leads to; they are closed afterwards."""
    watch = DeviceWatch({source: {} for source in sources})
    try:
        return watch.look(deadline_s)
    finally:
        watch.close()


def test_a_failing_source_costs_only_its_own_devices() -> None:
    good, bad, lying = Source("good"), Raising("bad"), Foreign("lying")
    state = seen(good, bad, lying)
    assert list(state.devices) == ["GPU-1"]
    assert state.sources["bad"].failure == "RuntimeError: driver/library version mismatch"
    assert "somebody else" in (state.sources["lying"].failure or "")
    assert good.closed == 1


def test_a_device_that_uses_more_than_it_has_is_not_below_zero() -> None:
    (view,) = devices_view(seen(Source("one")), 0.0)
    assert view["memory_free_bytes"] == 0


def test_a_source_that_does_not_answer_is_given_up() -> None:
    release = threading.Event()

    class Stuck(Source):
        def observe(self, now_s: float) -> Inventory:
            release.wait(30)
            return super().observe(now_s)

    try:
        state = seen(Stuck("stuck"), Source("good", "GPU-2"), deadline_s=0.2)
    finally:
        release.set()
    assert list(state.devices) == ["GPU-2"]
    assert state.sources["stuck"].failure == "no answer within 0.2 s"


def test_a_device_that_two_sources_report_is_told() -> None:
    state = seen(Source("one"), Source("two"))
    assert any("reported by both one and two" in why for why in state.rejected)


def test_the_built_in_parts_are_a_plugin_like_any_other(muai: Any) -> None:
    (core, *_) = json.loads(muai("plugins", "--json").out)
    assert (core["name"], core["origin"], core["status"]) == ("muai-core", "built-in", "ok")
    assert {"kind": "device source", "name": "cpu"} in core["registers"]
    assert core["version"] == json.loads(muai("version", "--json").out)["muai"]


def test_the_local_plugins_of_a_config_are_listed(muai: Any, fleet_config: Any) -> None:
    plugins = json.loads(muai("plugins", fleet_config(MODEL), "--json").out)
    local = plugins[-1]
    assert local["name"] == "fake_fleet"
    assert local["origin"].endswith("fake_fleet.py")
    assert {"kind": "engine", "name": "fake"} in local["registers"]


def test_a_local_plugin_that_fails_is_listed_with_the_reason(
    muai: Any, fleet_config: Any, tmp_path: Path
) -> None:
    file = fleet_config(MODEL)
    (tmp_path / "fake_fleet.py").write_text("import no_such_module_anywhere\n")
    done = muai("plugins", file)
    assert done.status == 0
    assert "failed" in done.out
    assert "No module named 'no_such_module_anywhere'" in done.out


def test_a_disabled_plugin_says_so(muai: Any, fleet_config: Any) -> None:
    done = muai("plugins", fleet_config(MODEL), MUAI_DISABLE_PLUGINS="fake_fleet")
    assert done.status == 0
    assert "disabled  by MUAI_DISABLE_PLUGINS" in done.out


def test_the_first_look_at_the_cpu_knows_no_utilization(muai: Any) -> None:
    (cpu,) = json.loads(muai("devices", "--json").out)
    assert cpu["utilization_percent"] is None
    assert cpu["memory_used_bytes"] > 0
