"""Devices as the world shows them: identity, readings, links."""

from typing import Literal

from msgspec import Struct

from muai_core.model.health import Finding

Platform = Literal["cpu", "cuda", "simulated"]
DeviceKind = Literal["cpu", "gpu"]


class Device(Struct, frozen=True, kw_only=True):
    """One accelerator, or the host's CPU. Its identity is the UUID; the index is for display.

    All of it stays the same while the device is there; what changes is in the readings.
    """

    uuid: str
    node: str
    index: int
    kind: DeviceKind
    platform: Platform
    name: str
    memory_total_bytes: int
    #: Devices of one island reach each other over NVLink or the like; tensor parallelism stays
    #: inside. None: no fast link.
    island: str | None = None
    pci_bus_id: str | None = None
    compute_capability: str | None = None
    #: Its number where CUDA counts in PCI bus order (`CUDA_DEVICE_ORDER=PCI_BUS_ID`).
    cuda_index: int | None = None
    #: A MIG instance: its number on the GPU that it is a part of, and that GPU's UUID.
    mig_index: int | None = None
    parent_uuid: str | None = None
    serial_number: str | None = None
    vendor: str | None = None
    architecture: str | None = None
    driver_version: str | None = None
    #: The highest CUDA version that the driver can run, e.g. "13.0".
    cuda_version: str | None = None
    numa_node: int | None = None
    #: The CPUs next to it, as Linux lists them: "0-31,64-95".
    cpu_affinity: str | None = None
    #: Of a CPU: cores that processes may use. None: not known.
    core_count: int | None = None

    @property
    def label(self) -> str:
        """How people see it on its node: "3", or "3:1" for a MIG instance."""
        return str(self.index) if self.mig_index is None else f"{self.index}:{self.mig_index}"


class DeviceProcess(Struct, frozen=True):
    """A process that holds memory on a device."""

    pid: int
    #: None: the driver does not tell.
    memory_bytes: int | None = None
    name: str | None = None
    #: Whether MuAI started it; None when that cannot be found out.
    own: bool | None = None


#: How two devices of a node reach each other, best first: by NVLink; through one PCIe switch;
#: through several; through a host bridge; within a NUMA node; across NUMA nodes. The words are
#: those of `nvidia-smi topo -m`, which writes NV# for NVLink.
LinkKind = Literal["NVL", "PIX", "PXB", "PHB", "NODE", "SYS"]


class DeviceLink(Struct, frozen=True, kw_only=True):
    """What lies between two devices; each pair is listed once."""

    #: UUIDs.
    a: str
    b: str
    kind: LinkKind
    #: NVLinks between them; 0 when there is none or the number is unknown.
    nvlinks: int = 0
    #: Whether one may read the other's memory directly; None: unknown.
    p2p: bool | None = None


class DeviceReading(Struct, frozen=True, kw_only=True):
    """One sample of one device. None means the device does not tell, never zero or unhealthy."""

    uuid: str
    #: Conditions that hold in this sample. None at all: the device is fine as far as this source
    #: can see.
    findings: tuple[Finding, ...] = ()
    #: On the controller's clock, when the sample was taken. None: with the inventory. A source
    #: that gets no answer from a device repeats its last sample with the time of that.
    sampled_at_s: float | None = None
    #: Held by processes, without what the driver reserves for itself.
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    #: As the device says it; used + reserved + free = total.
    memory_free_bytes: int | None = None
    #: Held by processes that are not MuAI's: never available to a placement. None: the source
    #: cannot tell whose the memory is; then what is in use beyond all claims is taken for foreign.
    memory_foreign_bytes: int | None = None
    #: In percent, 0 to 100.
    utilization_percent: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    processes: tuple[DeviceProcess, ...] = ()


class Measurement(Struct, frozen=True, gc=False):
    """One value of one of the device metrics in `muai_core.telemetry.device_catalogue`, by its
    name there (without `_total`). `labels` are the metric's labels after `gpu_id`."""

    metric: str
    value: float
    labels: tuple[str, ...] = ()


class DeviceMeasurements(Struct, frozen=True):
    """What is measured beside the reading: for people and dashboards, nothing is decided by it."""

    uuid: str
    values: tuple[Measurement, ...]


class HostFault(Struct, frozen=True, kw_only=True):
    """Something that is wrong with the node or the driver, not with its devices.

    While it lasts, nothing is known of any device of the source: all are `unknown`, none failed.
    """

    #: A short, stable word: `no_permission`, `driver_not_loaded`, ...
    kind: str
    reason: str
    advice: str


class Inventory(Struct, frozen=True, kw_only=True):
    """Everything one device source sees at one moment; what it does not list is not there.

    A source keeps listing a device that it lost, with a finding that says so.
    """

    source: str
    #: Seconds on the controller's clock at which the observation began.
    observed_at_s: float
    devices: tuple[Device, ...]
    readings: tuple[DeviceReading, ...] = ()
    links: tuple[DeviceLink, ...] = ()
    fault: HostFault | None = None
    #: Taken out by the device monitor: the control plane never sees it.
    measurements: tuple[DeviceMeasurements, ...] = ()
