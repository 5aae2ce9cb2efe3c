"""The controller's parts, each made from the checked config. No part knows the config itself."""

from collections.abc import Collection, Mapping
from typing import Any

from muai_core.config.loaded import LoadedConfig
from muai_core.control import events as ev
from muai_core.control.plane import ControlPlane
from muai_core.gateway.settings import GatewaySettings
from muai_core.gateway.tracing import Tracing
from muai_core.model.device import Platform
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.metric_sink import MetricSink
from muai_core.runtime.bring_up import StageDeadlines
from muai_core.runtime.executor import EngineRunner
from muai_core.runtime.launches import Launches
from muai_core.runtime.ports import PortAllocator
from muai_core.runtime.resolution import Resolved
from muai_core.runtime.sinks import SinkRunners


def device_sources(loaded: LoadedConfig) -> dict[DeviceSource, Mapping[str, Any]]:
    """The device sources that are on, with their options."""
    sources = loaded.plugins.device_sources
    return {sources[name]: options for name, options in loaded.device_source_options().items()}


def device_sources_by_name(loaded: LoadedConfig) -> dict[str, DeviceSource]:
    """The device sources that are on."""
    return {source.name: source for source in device_sources(loaded)}


def platforms_in(facts: Collection[ev.Event]) -> set[Platform]:
    """The platforms of all devices that were observed."""
    return {
        device.platform
        for fact in facts
        if isinstance(fact, ev.DevicesObserved)
        for device in fact.inventory.devices
    }


def device_names_in(facts: Collection[ev.Event]) -> dict[Platform, list[str]]:
    """What the devices that were observed are called, by platform."""
    names: dict[Platform, dict[str, None]] = {}
    for fact in facts:
        if isinstance(fact, ev.DevicesObserved):
            for device in fact.inventory.devices:
                names.setdefault(device.platform, {})[device.name] = None
    return {platform: list(found) for platform, found in names.items()}


def make_plane(loaded: LoadedConfig, resolved: Resolved) -> ControlPlane:
    """A control plane without any state, with the strategy and the policy of the config."""
    settings = resolved.settings
    return ControlPlane(
        settings,
        loaded.plugins.allocation_strategies[settings.strategy],
        loaded.plugins.recovery_policies[settings.policy],
    )


def metric_sinks(loaded: LoadedConfig) -> list[tuple[MetricSink, dict[str, Any]]]:
    """The metric sinks that are on, with their options."""
    sinks = loaded.plugins.metric_sinks
    return [(sinks[name], options) for name, options in loaded.sink_options().items()]


def gateway_settings(loaded: LoadedConfig) -> GatewaySettings:
    """The `gateway` section, with the path of the key file made absolute."""
    section = loaded.config.gateway
    values = section.model_dump()
    if section.api_keys_file is not None:
        values["api_keys_file"] = str(loaded.path(section.api_keys_file))
    return GatewaySettings(**values)


def tracing(sinks: SinkRunners) -> Tracing | None:
    """How requests are traced; None when no sink wants them."""
    ratio = sinks.trace_sample_ratio
    return None if ratio is None else Tracing(ratio, sinks.record)


def stage_deadlines(loaded: LoadedConfig) -> StageDeadlines:
    """How long each stage of a start may take."""
    recovery = loaded.config.recovery
    return StageDeadlines(
        spawn_s=recovery.spawn_deadline_s,
        load_s=recovery.load_deadline_s,
        ready_s=recovery.ready_deadline_s,
    )


def engine_runner(loaded: LoadedConfig, python: str, launches: Launches) -> EngineRunner:
    """What launches engines; `python` is the interpreter of those whose config names none."""
    engines = loaded.plugins.engines
    return EngineRunner(
        engines,
        {name: loaded.python_for(name) or python for name in engines},
        {name: section.env for name, section in loaded.config.engines.items()},
        PortAllocator(),
        launches,
    )
