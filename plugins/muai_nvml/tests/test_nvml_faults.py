"""The fault matrix: every return code from every NVML function that is called, and its class."""

import re
from pathlib import Path

import muai_nvml
import pytest
from fake_nvml import FakeNvml
from muai_nvml import return_codes
from muai_nvml.source import NvmlSource
from nvml_observing import Make, Open, observe, observe_until

from muai_core.model.device import DeviceReading
from muai_core.model.health import Health

CODES = sorted(set(return_codes.NAMES))
#: A GPU that answers with one of these is broken, whichever call it was.
BROKEN = {8: "service", 11: "reboot", 14: "service", 15: "reboot", 16: "reset"}
ABSENT = {3, 13, 25, 26}
#: Without these nothing can be said about a GPU.
NEEDED = {"nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"}
#: About the driver, or about two GPUs: no GPU is judged by them.
NOT_ABOUT_ONE_GPU = {
    "nvmlInit",
    "nvmlDeviceGetCount",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetCudaDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2",
    "nvmlDeviceGetTopologyCommonAncestor",
    "nvmlDeviceGetP2PStatus",
    "nvmlEventSetCreate",
    "nvmlEventSetFree",
    "nvmlEventSetWait",
}
#: Asked only when the newer call gives nothing, or only of MIG instances.
SECOND_CHOICE = {
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetNumaNodeId",
    "nvmlDeviceGetNvLinkErrorCounter",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetGpuInstanceId",
}


def called_functions() -> set[str]:
    """Every NVML function that stands anywhere in the plugin."""
    directory = Path(muai_nvml.__file__).parent
    sources = [path.read_text() for path in directory.glob("*.py")]
    found = {
        name
        for source in sources
        for name in re.findall(r'"(nvml(?:Init|Device|System|Event)\w*)"', source)
    }
    return found | {"nvmlDeviceGetEncoderUtilization", "nvmlDeviceGetDecoderUtilization"}


GETTERS = sorted(called_functions() - NOT_ABOUT_ONE_GPU - SECOND_CHOICE)


def check_class(function: str, code: int, reading: DeviceReading) -> None:
    """That the reading of the GPU says what the code from this function means."""
    found = [(f.severity, f.recovery, f.code) for f in reading.findings]
    if code in BROKEN:
        assert found == [(Health.FAILED, BROKEN[code], code)]
    elif function in NEEDED and not (function == "nvmlDeviceGetMemoryInfo" and code in ABSENT):
        assert found == [(Health.UNKNOWN, None, code)]
    else:
        assert found == []
    for finding in reading.findings:
        assert finding.reason
        assert finding.advice
        assert return_codes.NAMES[code] in finding.reason


def test_the_matrix_knows_every_function() -> None:
    assert set(GETTERS) >= NEEDED
    assert len(GETTERS) > 35
    assert called_functions() >= NOT_ABOUT_ONE_GPU | SECOND_CHOICE


class TestEveryCodeFromEveryGetter:
    """One GPU per return code, and a healthy one, in each observation."""

    @pytest.mark.parametrize("function", GETTERS)
    def test_from_the_start(
        self, function: str, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=len(CODES) + 1)
        with fake.changes():
            for number, code in enumerate(CODES):
                fake.fail(number, function, code)
        found = observe(open_nvml_source(fake, listen=lambda happening: None))
        assert found.fault is None
        by_index = {d.index: r for d in found.devices for r in found.readings if r.uuid == d.uuid}
        assert len(by_index) == len(CODES) + 1
        assert by_index[len(CODES)].findings == ()
        for number, code in enumerate(CODES):
            check_class(function, code, by_index[number])

    def test_while_it_runs(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        once = {
            "nvmlDeviceGetHandleByIndex",
            "nvmlDeviceGetUUID",
            "nvmlDeviceGetName",
            "nvmlDeviceGetSerial",
            "nvmlDeviceGetPciInfo",
            "nvmlDeviceGetArchitecture",
            "nvmlDeviceGetCudaComputeCapability",
            "nvmlDeviceGetMemoryAffinity",
            "nvmlDeviceGetCpuAffinity",
            "nvmlDeviceGetNvLinkRemoteDeviceType",
            "nvmlDeviceGetNvLinkRemotePciInfo",
            "nvmlDeviceGetSupportedEventTypes",
            "nvmlDeviceRegisterEvents",
        }
        fake = make_fake_nvml(gpus=len(CODES) + 1)
        source = open_nvml_source(fake, slow_interval_s=0)
        observe(source)
        for function in GETTERS:
            with fake.changes():
                fake.heal()
                for number, code in enumerate(CODES):
                    fake.fail(number, function, code)
            readings = observe(source).readings
            assert readings[-1].findings == ()
            for number, code in enumerate(CODES):
                if function in once:
                    assert readings[number].findings == ()
                else:
                    check_class(function, code, readings[number])
        fake.heal()
        assert all(reading.findings == () for reading in observe(source).readings)

    @pytest.mark.parametrize(
        "function", sorted(NOT_ABOUT_ONE_GPU - {"nvmlInit", "nvmlDeviceGetCount"})
    )
    def test_about_no_single_gpu(
        self, function: str, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        for code in (1, 3, 9, 15, 999):
            fake.fail(None, function, code)
            fake.fail("*", function, code)
            source = open_nvml_source(fake, listen=lambda happening: None)
            found = observe(source)
            assert found.fault is None
            assert [reading.findings for reading in found.readings] == [(), ()]
            source.close()
            fake.heal()


class TestStartOfNvml:
    @pytest.mark.parametrize("code", [c for c in CODES if c not in (9, 12)])
    @pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount"])
    def test_failing_is_a_fault_of_the_host(
        self, function: str, code: int, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        fake.fail(None, function, code)
        found = observe(open_nvml_source(fake))
        assert found.devices == ()
        assert found.fault is not None
        assert found.fault.kind == return_codes.host_fault_of(code, "").kind
        assert str(code) in found.fault.reason
        assert found.fault.advice

    def test_without_a_kernel_driver_there_is_none(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        fake.fail(None, "nvmlInit", 9)
        source = open_nvml_source(fake)
        assert observe(source).fault is None
        assert "kernel driver is not loaded" in (source.explain_absence() or "")

    def test_the_kernel_driver_is_unloaded_while_it_runs(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        source = open_nvml_source(fake)
        before = observe(source)
        with fake.changes():
            fake.fail(None, "nvmlInit", 9)
            fake.restart_driver()
        found = observe(source)
        assert found.devices == before.devices
        assert found.fault is not None
        assert found.fault.kind == "driver_not_loaded"
        fake.heal()
        observe_until(source, lambda found: found.fault is None)


class TestAllAtOnce:
    @pytest.mark.parametrize("code", [4, 9, 17, 999])
    @pytest.mark.parametrize("gpus", [1, 8])
    def test_is_one_fault_of_the_host_and_none_of_the_gpus(
        self, gpus: int, code: int, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=gpus)
        source = open_nvml_source(fake)
        observe(source)
        fake.fail("*", "*", code)
        found = observe(source)
        assert found.fault is not None
        assert found.fault.kind == return_codes.HOST_FAULTS[code][0]
        assert len(found.devices) == gpus
        assert [reading.findings for reading in found.readings] == [()] * gpus
        fake.heal()
        found = observe_until(source, lambda found: found.fault is None)
        assert [reading.findings for reading in found.readings] == [()] * gpus

    def test_advice_names_what_takes_devices_from_containers(
        self, fake_nvml: FakeNvml, open_nvml_source: Open
    ) -> None:
        source = open_nvml_source(fake_nvml)
        observe(source)
        fake_nvml.fail("*", "*", 999)
        fault = observe(source).fault
        assert fault is not None
        assert "systemctl daemon-reload" in fault.advice

    def test_all_lost_are_lost_gpus(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        fake = make_fake_nvml(gpus=2)
        source = open_nvml_source(fake)
        observe(source)
        fake.lose("*")
        found = observe(source)
        assert found.fault is None
        assert [r.findings[0].kind for r in found.readings] == ["gpu_lost", "gpu_lost"]

    def test_all_but_one_are_judged_alone(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=3)
        source = open_nvml_source(fake)
        observe(source)
        for number in (0, 2):
            fake.fail(number, "*", 999)
        found = observe(source)
        assert found.fault is None
        severities = [[f.severity for f in reading.findings] for reading in found.readings]
        assert severities == [[Health.UNKNOWN], [], [Health.UNKNOWN]]


class TestDriver:
    def test_restarts_unnoticed(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        source = open_nvml_source(fake_nvml)
        before = observe(source)
        fake_nvml.restart_driver()
        found = observe(source)
        assert found.fault is None
        assert found.devices == before.devices
        assert all(r.findings == () and r.sampled_at_s is None for r in found.readings)

    def test_of_another_version_than_the_library(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=2)
        source = open_nvml_source(fake)
        observe(source)
        with fake.changes():
            fake.fail("*", "*", 18)
            fake.fail(None, "nvmlInit", 18)
        found = observe(source)
        assert found.fault is not None
        assert found.fault.kind == "version_mismatch"
        assert "reboot" in found.fault.advice
        fake.heal()
        observe_until(source, lambda found: found.fault is None)


class TestGpu:
    def test_that_vanishes_stays_listed(self, fake_nvml: FakeNvml, open_nvml_source: Open) -> None:
        source = open_nvml_source(fake_nvml)
        observe(source)
        fake_nvml.vanish(3)
        found = observe(source)
        assert found.fault is None
        assert {d.uuid for d in found.devices} == {fake_nvml.uuid(n) for n in range(8)}
        bad = {r.uuid: r.findings for r in found.readings if r.findings}
        assert list(bad) == [fake_nvml.uuid(3)]
        (finding,) = bad[fake_nvml.uuid(3)]
        assert (finding.kind, finding.severity) == ("vanished", Health.FAILED)
        fake_nvml.heal()
        back = observe(source)
        assert not any(reading.findings for reading in back.readings)

    def test_lost_before_we_came_is_listed_without_a_name(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=3)
        fake.lose(1)
        source = open_nvml_source(fake)
        found = observe(source)
        assert [d.uuid for d in found.devices] == [fake.uuid(0), "GPU-unknown-1", fake.uuid(2)]
        reading = next(r for r in found.readings if r.uuid == "GPU-unknown-1")
        assert reading.findings[0].kind == "gpu_lost"
        fake.heal()
        found = observe(source)
        assert [d.uuid for d in found.devices] == [fake.uuid(n) for n in range(3)]
        assert len(found.links) == 3

    def test_lost_keeps_its_name_when_the_probe_is_replaced(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(gpus=3)
        source = open_nvml_source(fake)
        observe(source)
        with fake.changes():
            fake.lose(1)
            fake.restart_driver()
        found = observe(source)
        assert [d.uuid for d in found.devices] == [fake.uuid(n) for n in range(3)]
        bad = {r.uuid: r.findings[0].kind for r in found.readings if r.findings}
        assert bad == {fake.uuid(1): "gpu_lost"}

    def test_that_needs_a_reset_has_no_values_and_says_so(
        self, fake_nvml: FakeNvml, open_nvml_source: Open
    ) -> None:
        source = open_nvml_source(fake_nvml)
        observe(source)
        fake_nvml.require_reset(6)
        found = observe(source)
        (finding,) = found.readings[6].findings
        assert (finding.kind, finding.recovery) == ("reset_required", "reset")
        assert "nvidia-smi" in finding.advice
        assert found.readings[6].memory_used_bytes is None
        assert len(found.measurements) == 7
        assert not any(r.findings for n, r in enumerate(found.readings) if n != 6)


class TestNoDriver:
    def test_is_told_in_one_line_at_once_and_without_a_process(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("muai_nvml.absence.may_find_library", lambda library_dir: False)
        source = NvmlSource(command=("/does/not/exist",))
        source.open({})
        found = observe(source)
        assert (found.devices, found.fault) == ((), None)
        assert source.explain_absence() == "no NVIDIA driver here (libnvidia-ml.so.1 not found)"
        source.close()

    def test_is_told_by_pynvml_where_the_look_around_is_in_doubt(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("muai_nvml.absence.may_find_library", lambda library_dir: True)
        source = NvmlSource()
        source.open({})
        found = observe(source)
        assert (found.devices, found.fault) == ((), None)
        assert source.explain_absence() == "no NVIDIA driver here (libnvidia-ml.so.1 not found)"
        # It is not asked again at once.
        monkeypatch.setattr("muai_nvml.watch.PROBE_COMMAND", ("/does/not/exist",))
        assert observe(source).devices == ()
        source.close()

    def test_a_driver_without_gpus(self, make_fake_nvml: Make, open_nvml_source: Open) -> None:
        source = open_nvml_source(make_fake_nvml(gpus=0))
        assert observe(source).devices == ()
        assert source.explain_absence() == "an NVIDIA driver is here, but no GPU"
