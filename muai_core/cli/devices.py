"""`muai devices`: what there is to run models on, and how it is."""

from pathlib import Path
from typing import Any

import click

from muai_core.cli.output import UNKNOWN, json_option, note, paragraph, print_json, print_table
from muai_core.cli.state_directory import state_dir_option
from muai_core.cli.wording import device_label, memory, quantity


@click.command("devices")
@click.argument("file", required=False)
@state_dir_option
@json_option
def command(file: str | None, state_dir: Path, as_json: bool) -> None:
    """List the devices and their health.

    As a running controller sees them; without one, or with a config FILE, they are looked at once.
    A device source that fails is told on stderr.
    """
    devices, complaints = (None if file else _of_controller(state_dir)) or _observed(file)
    for complaint in complaints:
        note(complaint)
    if as_json:
        print_json(devices)
    else:
        print_devices(devices)


View = list[dict[str, Any]]


def _of_controller(state_dir: Path) -> tuple[View, list[str]] | None:
    from muai_core.cli.controller_client import NoController, get_status

    try:
        status = get_status(state_dir)
    except NoController:
        return None
    return status["devices"], source_complaints(status["device_sources"])


def _observed(file: str | None) -> tuple[View, list[str]]:
    import time

    from muai_core.runtime.observation import devices_in, observe_once
    from muai_core.runtime.status import devices_view, sources_view

    state = devices_in(observe_once(_sources(file)))
    complaints = source_complaints(sources_view(state, time.monotonic()))
    return devices_view(state), [*complaints, *state.rejected]


def source_complaints(sources: View) -> list[str]:
    """What device sources failed with, a line each."""
    return [
        f"device source {source['name']}: {source['failure']}"
        for source in sources
        if source["failure"] is not None
    ]


def _sources(file: str | None) -> dict[Any, Any]:
    from muai_core import builtin

    if file is None:
        sources = builtin.load().device_sources.values()
        return {source: {} for source in sources if source.on_by_default}
    from muai_core.config import load_config

    loaded = load_config(file, load_plugins=builtin.load)
    known = loaded.plugins.device_sources
    return {known[name]: options for name, options in loaded.device_source_options().items()}


def print_devices(devices: View) -> None:
    """The devices as a table, after a friendly word when none of them is a GPU."""
    if not any(device["kind"] == "gpu" for device in devices):
        paragraph("No GPU was found; models run on the CPU.")
    headings = ["device", "name", "memory", "used", "ours", "foreign", "util", "temp", "power"]
    rows = [
        [
            device_label(device),
            device["name"],
            memory(device["memory_total_bytes"]),
            memory(device["memory_used_bytes"]),
            memory(device["memory_own_bytes"]),
            memory(device["memory_foreign_bytes"]),
            quantity(device["utilization_percent"], "%"),
            quantity(device["temperature_celsius"], "°C"),
            quantity(device["power_watts"], "W"),
            device["health"],
            device["health_reason"] or UNKNOWN,
        ]
        for device in devices
    ]
    right = "memory, used, ours, foreign, util, temp, power"
    print_table([*headings, "health", "reason"], rows, right=right)
