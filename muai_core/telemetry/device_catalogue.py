"""The metrics of devices, as data.

Five names with the single label `gpu_id` are a contract of their own; the rest follows the rules of
Prometheus (base units, ratios from 0 to 1) and what NVML can tell. `MEASURED` are those that device
sources report by name (`muai_core.model.device.Measurement`); all others come from readings and
from the control plane's records.
"""

from muai_core.telemetry.metric import Metric, counter, gauge

#: The label of every metric of one device. There is one series for each GPU, none for CPUs.
GPU_ID = "gpu_id"


def _gauge(name: str, help_text: str, *labels: str) -> Metric:
    return gauge(name, help_text, GPU_ID, *labels)


def _counter(name: str, help_text: str, *labels: str) -> Metric:
    return counter(name, help_text, GPU_ID, *labels)


# The contract
MEMORY_USED = _gauge(
    "gpu_memory_used_bytes", "Memory that processes hold on the GPU, whoever they belong to."
)
MEMORY_AVAILABLE = _gauge("gpu_memory_available_bytes", "Memory of the GPU that nobody uses.")
UTILIZATION = _gauge(
    "gpu_utilization_percent", "Share of time in which the GPU was busy, 0 to 100."
)
TEMPERATURE = _gauge("gpu_temperature_celsius", "Temperature of the GPU.")
HEALTH = _gauge(
    "gpu_health_status", "1 while the GPU may get new work (healthy or degraded), else 0."
)

# Who it is and how it is; these stay when the GPU is lost
INFO = _gauge(
    "gpu_info",
    "Always 1; joins gpu_id with the GPU's identity.",
    "uuid",
    "node",
    "name",
    "vendor",
    "pci_bus_id",
    "driver_version",
    "cuda_version",
    "compute_capability",
    "parent_uuid",
)
HEALTH_STATE = _gauge(
    "gpu_health_state", "1 for the state that the GPU's health is in, 0 for the others.", "state"
)
XID_ERRORS = _counter("gpu_xid_errors", "XID errors that the driver reported.", "xid")
FINDINGS_OPEN = _gauge(
    "muai_device_findings_open", "Findings that count against the GPU at present.", "kind"
)
FINDINGS = _counter("muai_device_findings", "Findings that were made on the GPU.", "kind")
LAST_SUCCESS = _gauge(
    "muai_gpu_last_success_timestamp_seconds", "Unix time of the GPU's last sample."
)
CLAIMED = _gauge("muai_device_claimed_bytes", "Memory of the GPU that replicas have claimed.")
ALLOCATION = gauge(
    "muai_allocation_bytes",
    "Memory of the GPU that the replica has claimed.",
    "model",
    "replica",
    GPU_ID,
)

# From the reading
MEMORY_TOTAL = _gauge("gpu_memory_total_bytes", "Memory of the GPU in all.")
MEMORY_RESERVED = _gauge(
    "gpu_memory_reserved_bytes", "Memory that the driver keeps for itself on the GPU."
)
MEMORY_FOREIGN = _gauge(
    "gpu_memory_foreign_bytes", "Memory that processes other than MuAI's hold on the GPU."
)
UTILIZATION_RATIO = _gauge(
    "gpu_utilization_ratio", "Share of time in which a part of the GPU was busy, 0 to 1.", "task"
)
POWER = _gauge("gpu_power_watts", "Power that the GPU draws.")

# Measured: reported by device sources under these names
TEMPERATURE_SENSOR = _gauge(
    "gpu_temperature_sensor_celsius", "Temperature at one of the GPU's sensors.", "sensor"
)
TEMPERATURE_LIMIT = _gauge(
    "gpu_temperature_limit_celsius", "Temperature at which the GPU takes a measure.", "limit"
)
POWER_LIMIT = _gauge("gpu_power_limit_watts", "Power that the GPU may draw.")
ENERGY = _counter("gpu_energy_joules", "Energy that the GPU used since the driver was loaded.")
CLOCK = _gauge("gpu_clock_hertz", "Clock of a part of the GPU.", "type")
CLOCK_LIMIT = _gauge("gpu_clock_limit_hertz", "Highest clock of a part of the GPU.", "type")
THROTTLE = _counter(
    "gpu_clock_throttle_seconds", "Time in which the clocks were held down.", "reason"
)
THROTTLE_ACTIVE = _gauge(
    "gpu_clock_throttle_active", "1 while the clocks are held down for this reason.", "reason"
)
ECC_ERRORS = _counter(
    "gpu_ecc_errors", "Memory errors that the GPU counted in its life.", "error_type", "location"
)
REMAPPED_ROWS = _gauge(
    "gpu_remapped_rows", "Rows of memory that are replaced by spare ones, for life.", "cause"
)
ROW_REMAP_PENDING = _gauge(
    "gpu_row_remap_pending", "1 while a row waits for the next reset to be replaced."
)
ROW_REMAP_FAILURE = _gauge("gpu_row_remap_failure", "1 when a row could not be replaced.")
RETIRED_PAGES = _gauge(
    "gpu_retired_pages", "Pages of memory that are no longer used, for life.", "cause"
)
RECOVERY_ACTION = _gauge(
    "gpu_recovery_action",
    "What the driver asks for, as NVML numbers it: 0 nothing, 1 GPU reset, 2 reboot of the node, "
    "3 drain P2P, 4 drain and reset, 5 recover the IMEX domain, 6 bus reset, 7 system reboot.",
)
PCIE_REPLAYS = _counter("gpu_pcie_replays", "Packets that PCIe had to send again.")
PCIE_LINK_GENERATION = _gauge("gpu_pcie_link_generation", "PCIe generation of the link at present.")
PCIE_LINK_WIDTH = _gauge("gpu_pcie_link_width", "PCIe lanes of the link at present.")
PCIE_IO = _counter("gpu_pcie_io_bytes", "Bytes that went over PCIe.", "direction")
PCIE_THROUGHPUT = _gauge(
    "gpu_pcie_throughput_bytes_per_second", "Bytes per second over PCIe.", "direction"
)
NVLINK_ERRORS = _counter("gpu_nvlink_errors", "Errors on the GPU's NVLinks.", "kind")
NVLINK_ACTIVE = _gauge("gpu_nvlink_links_active", "NVLinks of the GPU that are up.")
FAN_SPEED = _gauge("gpu_fan_speed_ratio", "Speed of the fan, 1 being full speed.")

# Sources
MEASUREMENTS_REJECTED = counter(
    "muai_device_measurements_rejected",
    "Values that a device source measured and that belong to no metric, or are no numbers.",
    "source",
)

FROM_READINGS: tuple[Metric, ...] = (
    MEMORY_USED,
    MEMORY_AVAILABLE,
    UTILIZATION,
    TEMPERATURE,
    MEMORY_TOTAL,
    MEMORY_RESERVED,
    MEMORY_FOREIGN,
)
#: The reading tells the power and the task "general" as well; if it does, it counts.
MEASURED: tuple[Metric, ...] = (
    POWER,
    UTILIZATION_RATIO,
    TEMPERATURE_SENSOR,
    TEMPERATURE_LIMIT,
    POWER_LIMIT,
    ENERGY,
    CLOCK,
    CLOCK_LIMIT,
    THROTTLE,
    THROTTLE_ACTIVE,
    ECC_ERRORS,
    REMAPPED_ROWS,
    ROW_REMAP_PENDING,
    ROW_REMAP_FAILURE,
    RETIRED_PAGES,
    RECOVERY_ACTION,
    PCIE_REPLAYS,
    PCIE_LINK_GENERATION,
    PCIE_LINK_WIDTH,
    PCIE_IO,
    PCIE_THROUGHPUT,
    NVLINK_ERRORS,
    NVLINK_ACTIVE,
    FAN_SPEED,
)
FROM_RECORDS: tuple[Metric, ...] = (
    HEALTH,
    INFO,
    HEALTH_STATE,
    XID_ERRORS,
    FINDINGS_OPEN,
    FINDINGS,
    LAST_SUCCESS,
    CLAIMED,
    ALLOCATION,
)
DEVICE_METRICS: tuple[Metric, ...] = (*FROM_READINGS, *MEASURED, *FROM_RECORDS)
