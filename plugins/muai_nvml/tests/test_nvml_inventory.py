"""What the source says of healthy GPUs: identity, readings, links, MIG, processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fake_nvml import FakeNvml
from nvml_observing import Make, Open, observe


@contextmanager
def sleeper(env: dict[str, str] | None = None, *, detached: bool = False) -> Iterator[int]:
    """A process that waits for its standard input to end; detached: adopted by init."""
    wait = "import sys; sys.stdin.read()"
    program = f"import os\nif os.fork() == 0:\n  print(os.getpid(), flush=True)\n  {wait}"
    argv = [
        sys.executable,
        "-c",
        program if detached else f"import os\nprint(os.getpid(), flush=True)\n{wait}",
    ]
    process = subprocess.Popen(
        argv,
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdin
    pid = int(process.stdout.readline())
    if detached:
        process.wait()
    yield pid
    process.stdin.close()
    process.stdout.read()
    process.wait()


class TestDevices:
    def test_tells_who_they_are(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        found = observe(open_nvml_source(fake_nvml))
        assert [d.uuid for d in found.devices] == [fake_nvml.uuid(n) for n in range(8)]
        assert [d.index for d in found.devices] == list(range(8))
        assert [d.cuda_index for d in found.devices] == list(range(8))
        first = found.devices[0]
        assert first.name == "NVIDIA H200"
        assert (first.kind, first.platform, first.vendor) == ("gpu", "cuda", "NVIDIA")
        assert first.memory_total_bytes == int(fake_nvml.get(0, "memory_total_bytes") or 0)
        assert first.pci_bus_id == "00000000:18:00.0"
        assert first.compute_capability == "9.0"
        assert first.architecture == "Hopper"
        assert first.driver_version == "580.95.05"
        assert first.cuda_version == "13.0"
        assert found.fault is None

    def test_counts_as_cuda_does_when_nvml_does_not(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        one, other = fake.get(0, "pci_bus_id"), fake.get(1, "pci_bus_id")
        fake.set(0, pci_bus_id=other)
        fake.set(1, pci_bus_id=one)
        found = observe(open_nvml_source(fake))
        assert [(d.index, d.cuda_index) for d in found.devices] == [(0, 1), (1, 0)]

    def test_stay_the_same_from_one_observation_to_the_next(
        self, fake_nvml: FakeNvml, open_nvml_source: Open
    ) -> None:
        source = open_nvml_source(fake_nvml)
        first = observe(source)
        second = observe(source)
        assert second.devices == first.devices
        assert second.links == first.links

    def test_leaves_out_what_a_gpu_does_not_support(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=1)
        for function in (
            "nvmlDeviceGetTemperatureV",
            "nvmlDeviceGetTemperature",
            "nvmlDeviceGetUtilizationRates",
            "nvmlDeviceGetPowerUsage",
            "nvmlDeviceGetSerial",
            "nvmlDeviceGetFieldValues",
            "nvmlDeviceGetFanSpeed",
        ):
            fake.fail(0, function, 3)
        found = observe(open_nvml_source(fake))
        reading = found.readings[0]
        assert reading.findings == ()
        assert reading.temperature_celsius is None
        assert reading.utilization_percent is None
        assert reading.power_watts is None
        assert found.devices[0].serial_number is None
        metrics = {value.metric for value in found.measurements[0].values}
        assert not metrics & {"gpu_power_watts", "gpu_recovery_action", "gpu_fan_speed_ratio"}
        assert "gpu_clock_hertz" in metrics


class TestReadings:
    def test_memory_adds_up(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        fake_nvml.set(2, memory_used_bytes=70 * 2**30)
        found = observe(open_nvml_source(fake_nvml))
        reading, device = found.readings[2], found.devices[2]
        assert reading.memory_used_bytes == 70 * 2**30
        assert reading.memory_reserved_bytes
        assert reading.memory_free_bytes is not None
        parts = 70 * 2**30 + reading.memory_reserved_bytes + reading.memory_free_bytes
        assert parts == device.memory_total_bytes

    def test_an_old_driver_has_only_the_first_version_of_memory(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=1)
        fake.fail(0, "nvmlDeviceGetMemoryInfo_v2", 13)
        found = observe(open_nvml_source(fake))
        assert found.readings[0].findings == ()

    def test_follow_the_device(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        source = open_nvml_source(fake_nvml)
        observe(source)
        fake_nvml.set(5, temperature_celsius=71, utilization_percent=93)
        reading = observe(source).readings[5]
        assert reading.sampled_at_s is None
        assert (reading.temperature_celsius, reading.utilization_percent) == (71.0, 93.0)


class TestProcesses:
    def test_own_are_those_that_descend_from_the_controller(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=1)
        with sleeper() as own:
            fake.set(0, memory_used_bytes=10 * 2**30)
            fake.processes(0, (own, 6 * 2**30), (1, 3 * 2**30))
            reading = observe(open_nvml_source(fake)).readings[0]
        found = {process.pid: process for process in reading.processes}
        assert (found[own].own, found[1].own) == (True, False)
        assert found[own].memory_bytes == 6 * 2**30
        assert found[own].name
        assert reading.memory_foreign_bytes == 4 * 2**30

    def test_own_are_those_adopted_by_init_that_carry_our_mark(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=1)
        mark = {"MUAI_REPLICA": "us/chat-0/1"}
        with (
            sleeper(mark),
            sleeper(mark, detached=True) as adopted,
            sleeper({"MUAI_REPLICA": "them/chat-0/1"}, detached=True) as stranger,
        ):
            fake.processes(0, (adopted, 2**30), (stranger, 2**30))
            reading = observe(open_nvml_source(fake)).readings[0]
        found = {process.pid: process.own for process in reading.processes}
        assert found == {adopted: True, stranger: False}

    def test_nobody_knows_whose_memory_it_is_when_a_process_is_out_of_sight(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        unseen = 2**22 + 1
        fake.processes(0, (unseen, 2**30))
        fake.processes(1, (1, None))
        one, other = observe(open_nvml_source(fake)).readings
        assert (one.processes[0].own, one.memory_foreign_bytes) == (None, None)
        assert (other.processes[0].memory_bytes, other.memory_foreign_bytes) == (None, None)

    def test_one_that_computes_and_draws_is_listed_once(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=1)
        fake.processes(0, (1, 2**30))
        fake.processes(0, (1, 2**30), kind="graphics")
        reading = observe(open_nvml_source(fake)).readings[0]
        assert [(p.pid, p.memory_bytes) for p in reading.processes] == [(1, 2**30)]


class TestLinks:
    def test_gpus_on_a_switch_are_one_island(
        self, fake_nvml: FakeNvml, open_nvml_source: Open
    ) -> None:
        found = observe(open_nvml_source(fake_nvml))
        assert len(found.links) == 28
        assert {link.kind for link in found.links} == {"NVL"}
        node = found.devices[0].node
        assert {device.island for device in found.devices} == {f"{node}/nvlink-0"}

    def test_bridged_pairs_are_islands_of_two(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=4, profile="a100")
        fake.set("*", {"nvlink_count": 4, "p2p.*.nvlink": 5})
        fake.connect_nvlink(0, 1, 0, 1, 2, 3)
        fake.connect_nvlink(2, 3, 0, 1, 2, 3)
        found = observe(open_nvml_source(fake))
        node = found.devices[0].node
        islands = [device.island for device in found.devices]
        assert islands == [f"{node}/nvlink-{n}" for n in (0, 0, 2, 2)]
        assert sum(link.kind == "NVL" for link in found.links) == 2


class TestMig:
    def test_instances_stand_in_the_gpus_place(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        uuids = fake.mig(1, 18 * 2**30, 36 * 2**30)
        found = observe(open_nvml_source(fake))
        assert [d.uuid for d in found.devices] == [fake.uuid(0), *uuids]
        second = found.devices[2]
        assert second.parent_uuid == fake.uuid(1)
        assert (second.index, second.mig_index, second.label) == (1, 1, "1:1")
        assert second.memory_total_bytes == 36 * 2**30
        readings = {reading.uuid: reading for reading in found.readings}
        assert readings[uuids[1]].temperature_celsius is not None
        assert readings[uuids[1]].findings == ()

    def test_what_is_wrong_with_the_gpu_is_wrong_with_its_instances(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        uuids = fake.mig(1, 18 * 2**30, 36 * 2**30)
        source = open_nvml_source(fake)
        observe(source)
        fake.lose(1)
        found = {reading.uuid: reading for reading in observe(source).readings}
        assert [found[uuid].findings[0].kind for uuid in uuids] == ["gpu_lost", "gpu_lost"]

    def test_a_changed_layout_is_noticed(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=1)
        fake.mig(0, 18 * 2**30)
        source = open_nvml_source(fake, slow_interval_s=0)
        assert len(observe(source).devices) == 1
        uuids = fake.mig(0, 18 * 2**30, 18 * 2**30, 18 * 2**30)
        assert tuple(d.uuid for d in observe(source).devices) == uuids
