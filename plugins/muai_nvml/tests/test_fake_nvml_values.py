"""Every value that the state file can hold, read back through the real pynvml."""

from collections.abc import Callable
from typing import Any

import pynvml
import pytest
from fake_nvml import FakeNvml

# (values of GPU 3, what to ask of its handle h, what comes back)
READINGS: list[tuple[dict[str, Any], str, Any]] = [
    ({"name": "NVIDIA T1000 8GB"}, "n.nvmlDeviceGetName(h)", "NVIDIA T1000 8GB"),
    ({"uuid": "GPU-1"}, "n.nvmlDeviceGetUUID(h)", "GPU-1"),
    ({"serial": "123"}, "n.nvmlDeviceGetSerial(h)", "123"),
    ({"vbios_version": "9.1"}, "n.nvmlDeviceGetVbiosVersion(h)", "9.1"),
    ({"board_part_number": "900-2"}, "n.nvmlDeviceGetBoardPartNumber(h)", "900-2"),
    ({"minor_number": 9}, "n.nvmlDeviceGetMinorNumber(h)", 9),
    ({"brand": 5}, "n.nvmlDeviceGetBrand(h)", 5),
    ({"architecture": 10}, "n.nvmlDeviceGetArchitecture(h)", 10),
    ({"cores": 7}, "n.nvmlDeviceGetNumGpuCores(h)", 7),
    ({"memory_bus_width_bits": 64}, "n.nvmlDeviceGetMemoryBusWidth(h)", 64),
    ({"numa_node": -1}, "n.nvmlDeviceGetNumaNodeId(h)", -1),
    ({"compute_capability": (10, 3)}, "n.nvmlDeviceGetCudaComputeCapability(h)", [10, 3]),
    ({"persistence_mode": 0}, "n.nvmlDeviceGetPersistenceMode(h)", 0),
    ({"compute_mode": 3}, "n.nvmlDeviceGetComputeMode(h)", 3),
    ({"performance_state": 8}, "n.nvmlDeviceGetPerformanceState(h)", 8),
    ({"performance_state": 8}, "n.nvmlDeviceGetPowerState(h)", 8),
    ({"display_mode": 1}, "n.nvmlDeviceGetDisplayMode(h)", 1),
    ({"display_active": 1}, "n.nvmlDeviceGetDisplayActive(h)", 1),
    ({"fan_percent": 44}, "n.nvmlDeviceGetFanSpeed(h)", 44),
    ({"fans": 3}, "n.nvmlDeviceGetNumFans(h)", 3),
    ({"power_mw": 123456}, "n.nvmlDeviceGetPowerUsage(h)", 123456),
    ({"power_enforced_limit_mw": 5}, "n.nvmlDeviceGetEnforcedPowerLimit(h)", 5),
    ({"power_limit_mw": 6}, "n.nvmlDeviceGetPowerManagementLimit(h)", 6),
    ({"power_default_limit_mw": 7}, "n.nvmlDeviceGetPowerManagementDefaultLimit(h)", 7),
    ({"power_management_mode": 0}, "n.nvmlDeviceGetPowerManagementMode(h)", 0),
    (
        {"power_limit_range_mw": (1, 2)},
        "n.nvmlDeviceGetPowerManagementLimitConstraints(h)",
        [1, 2],
    ),
    ({"energy_mj": 1 << 40}, "n.nvmlDeviceGetTotalEnergyConsumption(h)", 1 << 40),
    ({"energy_mj": 1 << 40}, "field(h, 83)", [3, 1 << 40]),
    ({"clocks_event_reasons": "0x68"}, "n.nvmlDeviceGetCurrentClocksEventReasons(h)", 0x68),
    ({"clocks_event_reasons": "0x68"}, "n.nvmlDeviceGetCurrentClocksThrottleReasons(h)", 0x68),
    ({"clocks_event_reasons_supported": 1}, "n.nvmlDeviceGetSupportedClocksEventReasons(h)", 1),
    ({"clocks_event_reasons_supported": 1}, "n.nvmlDeviceGetSupportedClocksThrottleReasons(h)", 1),
    ({"pcie_generation": 3}, "n.nvmlDeviceGetCurrPcieLinkGeneration(h)", 3),
    ({"pcie_generation_max": 4}, "n.nvmlDeviceGetMaxPcieLinkGeneration(h)", 4),
    ({"pcie_generation_gpu_max": 6}, "n.nvmlDeviceGetGpuMaxPcieLinkGeneration(h)", 6),
    ({"pcie_width": 8}, "n.nvmlDeviceGetCurrPcieLinkWidth(h)", 8),
    ({"pcie_width_max": 4}, "n.nvmlDeviceGetMaxPcieLinkWidth(h)", 4),
    ({"pcie_speed_mbps": 8000}, "n.nvmlDeviceGetPcieSpeed(h)", 8000),
    ({"pcie_replays": 17}, "n.nvmlDeviceGetPcieReplayCounter(h)", 17),
    ({"pcie_replays": 17}, "field(h, n.NVML_FI_DEV_PCIE_REPLAY_COUNTER)", [3, 17]),
    ({"pcie_throughput_kibps.tx": 1}, "n.nvmlDeviceGetPcieThroughput(h, 0)", 1),
    ({"pcie_throughput_kibps.rx": 2}, "n.nvmlDeviceGetPcieThroughput(h, 1)", 2),
    ({"ecc_mode": 1}, "n.nvmlDeviceGetEccMode(h)", [1, 1]),
    ({"ecc_mode": (1, 0)}, "n.nvmlDeviceGetEccMode(h)", [1, 0]),
    ({"ecc_mode_default": 0}, "n.nvmlDeviceGetDefaultEccMode(h)", [0]),
    ({"ecc.corrected.volatile": 5}, "n.nvmlDeviceGetTotalEccErrors(h, 0, 0)", 5),
    ({"ecc.uncorrected.aggregate": 6}, "n.nvmlDeviceGetTotalEccErrors(h, 1, 1)", 6),
    (
        {"ecc.uncorrected.volatile.sram": 2},
        "n.nvmlDeviceGetMemoryErrorCounter(h, 1, 0, n.NVML_MEMORY_LOCATION_SRAM)",
        2,
    ),
    (
        {"ecc.corrected.aggregate.dram": 3},
        "n.nvmlDeviceGetMemoryErrorCounter(h, 0, 1, n.NVML_MEMORY_LOCATION_DRAM)",
        3,
    ),
    ({"retired_pages_pending": 1}, "n.nvmlDeviceGetRetiredPagesPendingStatus(h)", 1),
    ({"retired_pages.1": "0x10:7 0x20:8"}, "n.nvmlDeviceGetRetiredPages(h, 1)", [0x10, 0x20]),
    (
        {"retired_pages.*": "0x10:7"},
        "n.nvmlDeviceGetRetiredPages_v2(h, 0)",
        [{"address": 0x10, "timestamp": 7}],
    ),
    ({"retired_pages.0": "none"}, "n.nvmlDeviceGetRetiredPages(h, 0)", []),
    ({"remapped_rows": (1, 2, 1, 0)}, "n.nvmlDeviceGetRemappedRows(h)", [1, 2, 1, 0]),
    ({"remapped_rows": (1, 2, 1, 0)}, "[field(h, i)[1] for i in range(142, 146)]", [1, 2, 1, 0]),
    (
        {"row_remapper_histogram": (636, 2, 1, 1, 0)},
        "n.nvmlDeviceGetRowRemapperHistogram(h)",
        {"max": 636, "high": 2, "partial": 1, "low": 1, "none": 0},
    ),
    ({"recovery_action": 2}, "field(h, n.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)", [1, 2]),
    ({"mig_mode": (0, 1)}, "n.nvmlDeviceGetMigMode(h)", [0, 1]),
    ({"mig_max": 4}, "n.nvmlDeviceGetMaxMigDeviceCount(h)", 4),
    ({"clock_mhz.sm": 1410}, "n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)", 1410),
    ({"clock_mhz.memory": 99}, "n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)", 99),
    ({"clock_max_mhz.video": 98}, "n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_VIDEO)", 98),
    (
        {"clock_applications_mhz.graphics": 97},
        "n.nvmlDeviceGetApplicationsClock(h, n.NVML_CLOCK_GRAPHICS)",
        97,
    ),
    ({"temperature_celsius": 71}, "n.nvmlDeviceGetTemperature(h, 0)", 71),
    ({"temperature_celsius": 71}, "n.nvmlDeviceGetTemperatureV(h, 0)", 71),
    ({"temperature_margin_celsius": -3}, "n.nvmlDeviceGetMarginTemperature(h)", -3),
    ({"memory_temperature_celsius": 88}, "field(h, n.NVML_FI_DEV_MEMORY_TEMP)", [1, 88]),
    (
        {
            "temperature_threshold_celsius.shutdown": 1,
            "temperature_threshold_celsius.slowdown": 2,
            "temperature_threshold_celsius.memory_max": 3,
            "temperature_threshold_celsius.gpu_max": 4,
        },
        "[n.nvmlDeviceGetTemperatureThreshold(h, i) for i in range(4)]",
        [1, 2, 3, 4],
    ),
    ({"violation_ns.1": 10**9}, "n.nvmlDeviceGetViolationStatus(h, 1).violationTime", 10**9),
    ({"violation_ns.1": 10**9}, "field(h, n.NVML_FI_DEV_PERF_POLICY_THERMAL)", [3, 10**9]),
    ({"encoder_percent": 12}, "n.nvmlDeviceGetEncoderUtilization(h)[0]", 12),
    ({"decoder_percent": 13}, "n.nvmlDeviceGetDecoderUtilization(h)[0]", 13),
    ({"jpeg_percent": 14}, "n.nvmlDeviceGetJpgUtilization(h)[0]", 14),
    ({"ofa_percent": 15}, "n.nvmlDeviceGetOfaUtilization(h)[0]", 15),
    (
        {"utilization_percent": 93, "memory_utilization_percent": 41},
        "n.nvmlDeviceGetUtilizationRates(h)",
        {"gpu": 93, "memory": 41},
    ),
    (
        {"memory_total_bytes": 1000, "memory_reserved_bytes": 10, "memory_used_bytes": 300},
        "n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2)",
        {"version": 0x02000028, "total": 1000, "reserved": 10, "free": 690, "used": 300},
    ),
    (
        {"memory_total_bytes": 1000, "memory_reserved_bytes": 10, "memory_used_bytes": 300},
        "n.nvmlDeviceGetMemoryInfo(h)",
        {"total": 1000, "free": 690, "used": 310},
    ),
    (
        {"bar1_total_used_bytes": (100, 1)},
        "n.nvmlDeviceGetBAR1MemoryInfo(h)",
        {"bar1Total": 100, "bar1Free": 99, "bar1Used": 1},
    ),
    (
        {"pci_bus_id": "0000:3B:00.0"},
        "[getattr(n.nvmlDeviceGetPciInfo(h), f) for f in ('busId', 'busIdLegacy', 'bus')]",
        ["00000000:3B:00.0", "0000:3B:00.0", 0x3B],
    ),
    (
        {"cpu_affinity": "0-3,64,66-67"},
        "n.nvmlDeviceGetCpuAffinity(h, 2)",
        [0b1111, 0b1101],
    ),
    ({"memory_affinity": "1,3"}, "n.nvmlDeviceGetMemoryAffinity(h, 1, 0)", [0b1010]),
    ({"retired_pages_pending": 1}, "field(h, n.NVML_FI_DEV_RETIRED_PENDING)", [1, 1]),
    ({"p2p.5.read": 4}, "n.nvmlDeviceGetP2PStatus(h, gpu(5), 0)", 4),
    ({"p2p.5.nvlink": 5}, "n.nvmlDeviceGetP2PStatus(gpu(5), h, 2)", 5),
    ({"p2p.5.nvlink": 5}, "n.nvmlDeviceGetP2PStatus(h, gpu(4), 2)", 0),
    ({"topology.5": 10}, "n.nvmlDeviceGetTopologyCommonAncestor(gpu(5), h)", 10),
    ({}, "n.nvmlDeviceGetTopologyCommonAncestor(gpu(2), h)", 40),
    ({}, "n.nvmlDeviceGetTopologyCommonAncestor(gpu(4), h)", 50),
    ({"nvlink.7.state": 0}, "[n.nvmlDeviceGetNvLinkState(h, i) for i in (6, 7)]", [1, 0]),
    ({"nvlink.7.version": 7}, "n.nvmlDeviceGetNvLinkVersion(h, 7)", 7),
    ({"nvlink.7.remote_type": 0}, "n.nvmlDeviceGetNvLinkRemoteDeviceType(h, 7)", 0),
    (
        {"nvlink.7.capabilities": 0b10},
        "[n.nvmlDeviceGetNvLinkCapability(h, 7, i) for i in range(3)]",
        [0, 1, 0],
    ),
    (
        {
            f"nvlink.7.errors.{kind}": at
            for at, kind in enumerate(("replay", "recovery", "crc_flit", "crc_data", "ecc_data"))
        },
        "[n.nvmlDeviceGetNvLinkErrorCounter(h, 7, i) for i in range(5)]",
        [0, 1, 2, 3, 4],
    ),
    (
        {"nvlink.7.remote_pci_bus_id": "0000:5D:00.0"},
        "n.nvmlDeviceGetNvLinkRemotePciInfo(h, 7).busId",
        "00000000:5D:00.0",
    ),
    ({"sram_ecc": range(1, 13)}, "sram(h)", list(range(1, 13))),
    ({"event_types": 9}, "n.nvmlDeviceGetSupportedEventTypes(h)", 9),
    ({"field.193": "i32:-8"}, "field(h, 193)", [5, -8]),
    ({"field.180": "u32:1"}, "field(h, 180)", [1, 1]),
    ({"field.1000": 1 << 50}, "field(h, 1000)", [3, 1 << 50]),
    ({"field.1000": "f64:0.5"}, "field(h, 1000)", [0, 0.5]),
    ({"field.138": 1, "field.138.4": 2}, "[field(h, (138, s))[1] for s in (3, 4)]", [1, 2]),
    ({"field.230": "error:999"}, "n.nvmlDeviceGetFieldValues(h, [230])[0].nvmlReturn", 999),
    ({}, "n.nvmlDeviceGetFieldValues(h, [1000])[0].nvmlReturn", 3),
    (
        {"compute_processes": "7:1024 8:na 9:5:2:0"},
        "[list(vars(p).values()) for p in n.nvmlDeviceGetComputeRunningProcesses(h)]",
        [[7, 1024, 2**32 - 1, 2**32 - 1], [8, None, 2**32 - 1, 2**32 - 1], [9, 5, 2, 0]],
    ),
    ({"graphics_processes": "5:6"}, "n.nvmlDeviceGetGraphicsRunningProcesses(h)[0].pid", 5),
    ({"mps_processes": "4:6"}, "n.nvmlDeviceGetMPSComputeRunningProcesses(h)[0].pid", 4),
    ({"compute_processes": ""}, "n.nvmlDeviceGetComputeRunningProcesses(h)", []),
    (
        {"process_utilization": "7:80:30:1:2"},
        "[(s.pid, s.smUtil, s.memUtil, s.encUtil, s.decUtil)"
        " for s in n.nvmlDeviceGetProcessUtilization(h, 0)]",
        [[7, 80, 30, 1, 2]],
    ),
]

#: Answers in a way of their own when nothing is set.
ANSWERS_WITHOUT_VALUE = {
    "nvmlDeviceGetIndex": 0,
    "nvmlDeviceGetComputeRunningProcesses": 0,
    "nvmlDeviceGetComputeRunningProcesses_v2": 0,
    "nvmlDeviceGetComputeRunningProcesses_v3": 0,
    "nvmlDeviceGetGraphicsRunningProcesses": 0,
    "nvmlDeviceGetGraphicsRunningProcesses_v2": 0,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": 0,
    "nvmlDeviceGetMPSComputeRunningProcesses": 0,
    "nvmlDeviceGetMPSComputeRunningProcesses_v2": 0,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": 0,
}

HELPERS = """
def field(handle, which):
    value = n.nvmlDeviceGetFieldValues(handle, [which])[0]
    assert value.nvmlReturn == 0, value.nvmlReturn
    kinds = {0: "dVal", 1: "uiVal", 3: "ullVal", 5: "siVal"}
    return value.valueType, getattr(value.value, kinds[value.valueType])
def sram(handle):
    status = n.c_nvmlEccSramErrorStatus_v1_t()
    n.nvmlDeviceGetSramEccErrorStatus(handle, ctypes.byref(status))
    return list(plain(status).values())[1:]
"""


def test_every_value_is_read_back(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask(HELPERS)
    nvml_process.ask("h = gpu(3)")
    original = fake_nvml.path.read_text()
    for values, expression, expected in READINGS:
        fake_nvml.path.write_text(original)
        fake_nvml.set(3, values)
        assert nvml_process.ask(expression) == expected, (values, expression)


def test_a_change_is_for_its_gpu_alone(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    fake_nvml.set(3, temperature_celsius=90)
    read = "[n.nvmlDeviceGetTemperatureV(gpu(i), 0) for i in range(8)]"
    assert nvml_process.ask(read) == [31, 31, 31, 90, 31, 31, 31, 31]
    fake_nvml.set("*", temperature_celsius=40)
    assert nvml_process.ask(read) == [40, 40, 40, 90, 40, 40, 40, 40]


def test_what_is_not_set_is_not_supported(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    fake_nvml.path.write_text("gpu 0 uuid GPU-0\n")
    codes = nvml_process.ask("codes(gpu(0))")
    assert len(codes) > 60
    assert codes.pop("nvmlDeviceGetUUID") == 0
    not_supported = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert codes == {name: ANSWERS_WITHOUT_VALUE.get(name, not_supported) for name in codes}
    for expression in (
        "n.nvmlDeviceGetMemoryInfo(gpu(0), version=n.nvmlMemory_v2)",
        "n.nvmlDeviceGetTemperatureV(gpu(0), 0)",
        "n.nvmlDeviceGetTemperatureThreshold(gpu(0), 0)",
        "n.nvmlDeviceGetClockInfo(gpu(0), 0)",
        "n.nvmlDeviceGetTotalEccErrors(gpu(0), 0, 0)",
        "n.nvmlDeviceGetNvLinkState(gpu(0), 0)",
        "n.nvmlDeviceGetPcieThroughput(gpu(0), 0)",
        "n.nvmlDeviceGetRetiredPages(gpu(0), 0)",
        "n.nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), 0)",
        "n.nvmlSystemGetDriverVersion()",
    ):
        assert nvml_process.ask(expression) == Refused(not_supported), expression


def test_none_takes_away_what_the_profile_gives(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    fake_nvml.set(3, power_mw=None)
    refused = Refused(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(gpu(3))") == refused
    assert nvml_process.ask("n.nvmlDeviceGetPowerUsage(gpu(2))") == 76532


def test_a_handle_by_every_name(fake_nvml: FakeNvml, nvml_process: Any, Refused: Any) -> None:
    names = {
        "UUID": fake_nvml.uuid(3),
        "PciBusId": "0000:5d:00.0",
        "Serial": fake_nvml.get(3, "serial"),
    }
    for way, name in names.items():
        ask = f"n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleBy{way}('{name}'))"
        assert nvml_process.ask(ask) == 3
    unknown = "n.nvmlDeviceGetHandleByUUID('GPU-nobody')"
    assert nvml_process.ask(unknown) == Refused(pynvml.NVML_ERROR_NOT_FOUND)
    assert nvml_process.ask("gpu(8)") == Refused(pynvml.NVML_ERROR_INVALID_ARGUMENT)


def test_the_versions(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    fake_nvml.set_system(
        driver_version="600.1", nvml_version="13.600.1", cuda_driver_version="13010"
    )
    assert nvml_process.ask("n.nvmlSystemGetDriverVersion()") == "600.1"
    assert nvml_process.ask("n.nvmlSystemGetNVMLVersion()") == "13.600.1"
    assert nvml_process.ask("n.nvmlSystemGetCudaDriverVersion_v2()") == 13010


def test_mig_devices_are_devices_of_their_own(
    fake_nvml: FakeNvml, nvml_process: Any, Refused: Any
) -> None:
    first, second = fake_nvml.mig(2, 20 << 30, 40 << 30)
    fake_nvml.set(2, {"mig.1.memory_used_bytes": 5})
    fake_nvml.processes(2, (11, 100, 1, 0), (12, 200, 2, 0))
    nvml_process.ask("m = [n.nvmlDeviceGetMigDeviceHandleByIndex(gpu(2), i) for i in (0, 1)]")
    assert nvml_process.ask("n.nvmlDeviceGetMigMode(gpu(2))") == [1, 1]
    assert nvml_process.ask("[n.nvmlDeviceGetUUID(h) for h in m]") == [first, second]
    assert nvml_process.ask("n.nvmlDeviceGetName(m[0])") == "NVIDIA H200 MIG 1g.18gb"
    memory = nvml_process.ask("[n.nvmlDeviceGetMemoryInfo(h) for h in m]")
    assert [(one["total"], one["used"]) for one in memory] == [(20 << 30, 0), (40 << 30, 5)]
    assert nvml_process.ask("n.nvmlDeviceGetAttributes(m[1])")["memorySizeMB"] == 40 << 10
    assert nvml_process.ask("[n.nvmlDeviceGetGpuInstanceId(h) for h in m]") == [1, 2]
    assert nvml_process.ask("[n.nvmlDeviceIsMigDeviceHandle(h) for h in (m[0], gpu(2))]") == [1, 0]
    parent = "n.nvmlDeviceGetIndex(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(m[1]))"
    assert nvml_process.ask(parent) == 2
    pids = "[[p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(h)] for h in (m[1], gpu(2))]"
    assert nvml_process.ask(pids) == [[12], [11, 12]]
    by_uuid = f"n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID('{second}'))"
    assert nvml_process.ask(by_uuid) == 1
    not_supported = Refused(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert nvml_process.ask("n.nvmlDeviceGetUtilizationRates(m[0])") == not_supported
    third = "n.nvmlDeviceGetMigDeviceHandleByIndex(gpu(2), 2)"
    assert nvml_process.ask(third) == Refused(pynvml.NVML_ERROR_NOT_FOUND)
    fake_nvml.set(2, mig_mode=0)
    gone = Refused(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    assert nvml_process.ask("n.nvmlDeviceGetUUID(m[0])") == gone


def test_gpus_connected_directly(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    fake_nvml.connect_nvlink(0, 1, 4, 5)
    for near, far in ((0, 1), (1, 0)):
        remote = f"n.nvmlDeviceGetNvLinkRemotePciInfo(gpu({near}), 5).busId"
        assert nvml_process.ask(remote) == fake_nvml.get(far, "pci_bus_id")


@pytest.mark.parametrize("profile", ["h200", "b200", "a100", "l4", "v100", "rtx4090"])
def test_each_profile_is_a_whole_gpu(
    profile: str, make_fake_nvml: Callable[..., FakeNvml], start_nvml_process: Callable[..., Any]
) -> None:
    process = start_nvml_process(make_fake_nvml(2, profile))
    supported = {name for name, code in process.ask("codes(gpu(1))").items() if code == 0}
    assert supported >= {
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetPciInfo",
    }
    assert ("nvmlDeviceGetEccMode" in supported) == (profile != "rtx4090")
    assert ("nvmlDeviceGetFanSpeed" in supported) == (profile == "rtx4090")
    assert ("nvmlDeviceGetRemappedRows" in supported) == (profile in ("h200", "b200", "a100", "l4"))
    assert ("nvmlDeviceGetRetiredPagesPendingStatus" in supported) == (profile == "v100")
    assert ("nvmlDeviceGetMigMode" in supported) == (profile in ("h200", "b200", "a100"))
