"""The kit for device sources."""

from muai_core.testing.device_source.subject import DeviceSourceLimits, DeviceSourceSubject

__all__ = ["DeviceSourceLimits", "DeviceSourceSubject"]
