"""A local plugin: four GPUs that always read the same, and an engine that never starts."""

import msgspec

from muai_core import (
    Deployment,
    Device,
    DeviceReading,
    DeviceSource,
    Engine,
    Finding,
    Health,
    Inventory,
    LaunchRequest,
    LaunchSpec,
    Suitability,
    hookimpl,
)

GIB = 1024**3


class FakeDevices(DeviceSource):
    name = "fake"

    def observe(self, now_s: float) -> Inventory:
        devices = tuple(
            Device(
                uuid=f"GPU-fake-{index}",
                node="box",
                index=index,
                kind="gpu",
                platform="cuda",
                name="Fake 80G",
                memory_total_bytes=80 * GIB,
                island=f"box/{index // 2}",
            )
            for index in range(4)
        )
        idle = DeviceReading(
            uuid="",
            memory_used_bytes=2 * GIB,
            memory_foreign_bytes=1 * GIB,
            utilization_percent=12.4,
            temperature_celsius=41.0,
            power_watts=75.0,
        )
        readings = [msgspec.structs.replace(idle, uuid=device.uuid) for device in devices]
        readings[3] = DeviceReading(
            uuid=devices[3].uuid,
            findings=(
                Finding(
                    kind="xid",
                    code=79,
                    severity=Health.FAILED,
                    recovery="reboot",
                    reason="fell off the bus (XID 79)",
                    advice="reboot the node",
                    clears="repaired",
                ),
            ),
        )
        return Inventory(
            source=self.name, observed_at_s=now_s, devices=devices, readings=tuple(readings)
        )


class FakeEngine(Engine):
    name = "fake"
    platforms = ("cuda",)
    auto_priority = 10
    capabilities = ("tensor_parallel", "pipeline_parallel", "streaming", "abort")

    def suits(self, deployment: Deployment) -> Suitability:
        return Suitability(True, "fakes everything")

    def memory(self, deployment: Deployment, model: object) -> int:
        return 30 * GIB

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        raise NotImplementedError("a plan never starts anything")


class PickyEngine(FakeEngine):
    name = "picky"
    auto_priority = 20

    def suits(self, deployment: Deployment) -> Suitability:
        return Suitability(False, "serves only poems")


@hookimpl
def muai_device_sources() -> list[DeviceSource]:
    return [FakeDevices()]


@hookimpl
def muai_engines() -> list[Engine]:
    return [FakeEngine(), PickyEngine()]
