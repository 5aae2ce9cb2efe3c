"""The device source: what it shows, at rest, under load and with faults from a state file."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from muai_simulated.config import DeviceState
from muai_simulated.devices import SimulatedDevices
from muai_simulated.state_file import StateFileError

from muai_core.model.cards import CARDS, CardName
from muai_core.model.device import DeviceReading
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import SelfTestResult

GIB = 2**30


def opened(options: dict[str, Any], directory: Path) -> SimulatedDevices:
    source = SimulatedDevices(directory)
    source.open(options)
    return source


def test_every_card_can_be_simulated(tmp_path: Path) -> None:
    assert set(CARDS) == set(get_args(CardName))
    for name, card in CARDS.items():
        (device,) = opened({"gpus": 1, "profile": name}, tmp_path).observe(0.0).devices
        assert device.name == card.marketing_name
        assert device.memory_total_bytes == card.memory_total_bytes
        assert (device.island is not None) == card.nvlink


def test_the_default_is_one_node_of_eight_linked_h100(tmp_path: Path) -> None:
    inventory = opened({}, tmp_path).observe(12.5)
    assert inventory.source == "simulated"
    assert inventory.observed_at_s == 12.5
    assert [device.index for device in inventory.devices] == list(range(8))
    assert {device.name for device in inventory.devices} == {"NVIDIA H100 80GB HBM3"}
    assert {device.island for device in inventory.devices} == {"sim/nvlink-0"}
    assert {device.platform for device in inventory.devices} == {"simulated"}
    assert all(device.memory_total_bytes == 81559 * 2**20 for device in inventory.devices)
    assert [reading.uuid for reading in inventory.readings] == [d.uuid for d in inventory.devices]


def test_islands_nodes_and_mixed_boxes(tmp_path: Path) -> None:
    nodes = opened({"gpus": 4, "nodes": 2, "island_size": 2}, tmp_path).observe(0).devices
    assert [device.node for device in nodes] == ["sim-0"] * 4 + ["sim-1"] * 4
    assert [device.island for device in nodes[:4]] == ["sim-0/nvlink-0"] * 2 + [
        "sim-0/nvlink-2"
    ] * 2
    groups = [{"gpus": 2, "profile": "L40S-48GB"}, {"gpus": 2, "profile": "A100-80GB"}]
    mixed = opened({"groups": groups}, tmp_path).observe(0).devices
    assert [device.index for device in mixed] == [0, 1, 2, 3]
    assert [device.island for device in mixed] == [None, None, "sim/nvlink-2", "sim/nvlink-2"]
    assert {device.node for device in mixed} == {"sim"}


def test_1024_devices_have_unique_uuids_that_never_change(tmp_path: Path) -> None:
    options = {"gpus": 8, "nodes": 128}
    inventory = opened(options, tmp_path).observe(0)
    assert len({device.uuid for device in inventory.devices}) == 1024
    assert len({(device.node, device.pci_bus_id) for device in inventory.devices}) == 1024
    assert inventory == opened(options, tmp_path).observe(0)
    script = (
        "from muai_simulated.devices import SimulatedDevices as S; s = S(); "
        f"s.open({options!r}); print(s.observe(0).devices[-1].uuid)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == inventory.devices[-1].uuid


def test_a_process_holds_memory_until_it_is_gone(
    start: Callable[..., Any], reading_of: Callable[[int], DeviceReading]
) -> None:
    replica = start((0, 1), memory_gib=40, faults={"refuse_to_die": True})
    pid = replica.process.pid
    for index in (0, 1):
        reading = reading_of(index)
        assert reading.memory_used_bytes == 40 * GIB
        assert reading.memory_foreign_bytes == 0
        assert [(p.pid, p.memory_bytes) for p in reading.processes] == [(pid, 40 * GIB)]
    assert reading_of(2).memory_used_bytes == 0
    replica.process.send_signal(signal.SIGTERM)
    assert replica.is_ready()
    assert reading_of(0).memory_used_bytes == 40 * GIB
    replica.process.send_signal(signal.SIGKILL)
    replica.process.wait()
    assert reading_of(0).memory_used_bytes == 0
    assert reading_of(0).processes == ()


def test_load_shows_in_utilization_temperature_and_power(
    start: Callable[..., Any],
    reading_of: Callable[[int], DeviceReading],
    eventually: Callable[..., Any],
) -> None:
    replica = start((0,), tokens_per_second=20, max_num_seqs=2)
    idle = reading_of(0)
    assert (idle.utilization_percent, idle.power_watts) == (0, 70)
    # Closed at the end of the test, which aborts the request.
    with replica.client.completions.create(model="m", prompt="x", max_tokens=4000, stream=True):
        busy = eventually(
            lambda: reading if (reading := reading_of(0)).utilization_percent else None,
            "the request shows",
        )
        assert busy.utilization_percent == 75
        assert busy.temperature_celsius > idle.temperature_celsius
        assert 70 < busy.power_watts < 700
    eventually(lambda: reading_of(0) == idle, "the load is gone after the client left")


def test_another_living_controller_does_not_show_and_a_dead_ones_orphan_is_foreign(
    start: Callable[..., Any],
    reading_of: Callable[[int], DeviceReading],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(os, "getpid", lambda: other.pid)
    start((0,), memory_gib=10)
    monkeypatch.undo()
    assert reading_of(0).memory_used_bytes == 0
    other.communicate(b"\n")
    assert reading_of(0).memory_used_bytes == 10 * GIB
    assert reading_of(0).memory_foreign_bytes == 10 * GIB


def test_the_state_file_injects_and_heals_faults_while_running(tmp_path: Path) -> None:
    state_file = tmp_path / "state.yaml"
    source = opened({"gpus": 4, "state_file": str(state_file)}, tmp_path)
    healthy = source.observe(0)
    uuid = healthy.devices[2].uuid
    state_file.write_text(
        "devices:\n"
        "  0: {health: failed, health_reason: 'XID 79: fallen off the bus'}\n"
        "  sim/1: {lost: true}\n"
        f"  {uuid}:\n"
        "    {memory_foreign_bytes: 1000, temperature_celsius: 93, utilization_percent: 100}\n"
    )
    first, second, third = source.observe(0).readings
    assert [(f.severity, f.reason, f.clears) for f in first.findings] == [
        (Health.FAILED, "XID 79: fallen off the bus", "at_once")
    ]
    assert second.uuid == uuid
    assert (second.memory_foreign_bytes, second.memory_used_bytes) == (1000, 1000)
    assert (second.temperature_celsius, second.utilization_percent) == (93, 100)
    assert second.power_watts == 700
    assert third.findings == ()
    assert [device.index for device in source.observe(0).devices] == [0, 2, 3]
    state_file.write_text('{"devices": {"3": {"health": "suspect"}}}')
    *others, last = source.observe(0).readings
    assert not any(reading.findings for reading in others)
    assert [finding.severity for finding in last.findings] == [Health.SUSPECT]
    state_file.unlink()
    assert source.observe(0) == healthy


def test_a_self_test_ends_as_the_state_file_says(tmp_path: Path) -> None:
    state_file = tmp_path / "state.yaml"
    source = opened({"gpus": 4, "state_file": str(state_file)}, tmp_path)
    devices = source.observe(0).devices
    state_file.write_text(
        "devices: {1: {self_test: fail}, 2: {self_test: inconclusive}, 3: {self_test: hang}}"
    )

    def result(index: int) -> SelfTestResult:
        spec = source.self_test(devices[index])
        ended = subprocess.run(spec.argv, capture_output=True, text=True, timeout=60, check=True)
        return msgspec.json.decode(ended.stdout, type=SelfTestResult)

    passed, failed, unclear = result(0), result(1), result(2)
    assert (passed.finding, passed.inconclusive) == (None, None)
    assert isinstance(failed.finding, Finding)
    assert (failed.finding.severity, failed.finding.clears) == (Health.FAILED, "repaired")
    assert unclear.inconclusive == "nothing was proven, by the state file"
    hanging = subprocess.Popen(source.self_test(devices[3]).argv, stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        hanging.communicate(timeout=1.0)
    hanging.kill()
    assert hanging.communicate() == (b"", None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("devices: {0: {helth: failed}}", "devices.0.helth: unknown key; allowed: health, "),
        ("devices: {0: {health: broken}}", "devices.0.health: Input should be 'healthy', "),
        ("devices: {0: {self_test: maybe}}", "devices.0.self_test: Input should be 'pass', "),
        ("devices: {9: {lost: true}}", "devices.9: no such device; name it by UUID, "),
        ("device: {}", "device: unknown key; allowed: devices"),
        ("- 1", "the file: "),
        ("devices: {0: [", "not valid YAML: "),
        ("\x00", "not valid YAML: "),
    ],
)
def test_a_bad_state_file_is_an_error_every_time_until_repaired(
    tmp_path: Path, text: str, complaint: str
) -> None:
    state_file = tmp_path / "state.yaml"
    source = opened({"state_file": str(state_file)}, tmp_path)
    state_file.write_text(text)
    for _ in range(2):
        with pytest.raises(StateFileError) as error:
            source.observe(0)
        assert str(error.value).startswith(f"{state_file}: {complaint}")
        assert "\n" not in str(error.value)
    state_file.write_text("devices:\n")
    with pytest.raises(StateFileError, match="devices"):
        source.observe(0)
    state_file.write_text("")
    assert len(source.observe(0).devices) == 8


def test_a_directory_as_state_file_and_an_ambiguous_index_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StateFileError, match="Is a directory"):
        opened({"state_file": str(tmp_path)}, tmp_path).observe(0)
    state_file = tmp_path / "state.yaml"
    state_file.write_text("devices: {0: {lost: true}}")
    source = opened({"nodes": 2, "state_file": str(state_file)}, tmp_path)
    with pytest.raises(StateFileError, match="by node/index"):
        source.observe(0)


def test_the_state_file_knows_every_health() -> None:
    for health in Health:
        assert DeviceState(health=health.value).health == health


def test_two_observers_at_once_agree(start: Callable[..., Any], holdings_directory: Path) -> None:
    start((0,), memory_gib=8)
    sources = [opened({}, holdings_directory) for _ in range(4)]
    seen: list[int | None] = []

    def watch(source: SimulatedDevices) -> None:
        seen.extend(source.observe(0).readings[0].memory_used_bytes for _ in range(50))

    threads = [threading.Thread(target=watch, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {8 * GIB}
