"""`muai status`: what a running controller serves, and how it is."""

from pathlib import Path
from typing import Any

import click

from muai_core.cli.output import UNKNOWN, json_option, note, paragraph, print_json, print_table
from muai_core.cli.state_directory import state_dir_option
from muai_core.cli.wording import counted, device_ranges, duration, shape, text


@click.command("status")
@state_dir_option
@json_option
def command(state_dir: Path, as_json: bool) -> None:
    """Show the models, replicas and devices of a running controller.

    Exits with status 3 when no controller runs on the state directory.
    """
    from muai_core.cli.controller_client import get_status

    status = get_status(state_dir)
    if as_json:
        print_json(status)
    else:
        print_status(status)


def print_status(status: dict[str, Any]) -> None:
    """A line on the controller, then models, replicas, devices and sinks as tables."""
    from muai_core.cli.device_table import print_devices
    from muai_core.cli.outlook import fault_lines, source_complaints

    uptime = duration(status["uptime_s"])
    state = "running" if status["state"] == "running" else f"{status['state']}, up"
    paragraph(f"muai {status['version']}, pid {status['pid']}, {state} for {uptime}")
    gateway = status["gateway"]
    in_flight = counted(gateway["requests_in_flight"], "request")
    paragraph(f"gateway {gateway['address'] or 'not listening yet'}, {in_flight} in flight")
    _print_models(status["models"])
    _print_replicas(status["models"])
    if status["devices"]:
        paragraph()
        print_devices(status["devices"], fault_lines(status["device_sources"]))
    if status["sinks"]:
        paragraph()
        _print_sinks(status["sinks"])
    for complaint in source_complaints(status["device_sources"]):
        note(complaint)
    if status["journal"] and status["journal"]["problem"]:
        note(f"the journal is not being written: {status['journal']['problem']}")
    for plugin in status["plugins"]:
        if plugin["status"] == "failed":
            note(f"plugin {plugin['name']} failed to load: {plugin['reason']}")


def _print_models(models: dict[str, Any]) -> None:
    rows = [
        [
            name,
            text(model.get("engine")),
            _shape(model),
            model["state"],
            f"{model['ready']}/{model['desired']}",
            text(model["reason"]),
        ]
        for name, model in models.items()
    ]
    if rows:
        paragraph()
        print_table(["model", "engine", "shape", "state", "ready", "reason"], rows)


def _shape(model: dict[str, Any]) -> str:
    if "engine" not in model:
        return UNKNOWN
    return shape(model["tensor_parallel_size"], model["pipeline_parallel_size"])


def _print_replicas(models: dict[str, Any]) -> None:
    rows = [_replica_row(replica) for model in models.values() for replica in model["replicas"]]
    if rows:
        paragraph()
        headings = ["replica", "state", "for", "epoch", "pid", "endpoint", "devices"]
        numbers = ["in flight", "restarts"]
        right = "epoch, pid, in flight, restarts"
        print_table([*headings, *numbers, "note"], rows, right=right)


def _replica_row(replica: dict[str, Any]) -> list[str]:
    stages = replica["devices"] or []
    return [
        replica["id"],
        replica["state"],
        duration(replica["for_s"]),
        str(replica["epoch"]),
        text(replica["pid"]),
        text(replica["endpoint"]),
        " | ".join(device_ranges(stage) for stage in stages),
        str(replica["requests_in_flight"]),
        str(replica["restarts"]),
        _remark(replica),
    ]


def _remark(replica: dict[str, Any]) -> str:
    """What people want to know next, in one line."""
    parts = []
    if replica["stage"] is not None:
        parts.append(": ".join(filter(None, (replica["stage"], replica["detail"]))))
    if replica["blocked"] is not None:
        parts.append(replica["blocked"])
    if replica["retry_in_s"] is not None and replica["state"] == "backoff":
        parts.append(f"starts again in {duration(replica['retry_in_s'])}")
    failure = replica["last_failure"]
    if failure is not None:
        parts.append(f"failed {duration(failure['ago_s'])} ago: {failure['cause']}")
    return "; ".join(parts)


def _print_sinks(sinks: list[dict[str, Any]]) -> None:
    rows = [
        [
            sink["name"],
            sink["state"],
            str(sink["batches_published"]),
            str(sink["batches_dropped"]),
            text(sink["last_failure"]),
        ]
        for sink in sinks
    ]
    headings = ["sink", "state", "published", "dropped", "last failure"]
    print_table(headings, rows, right="published, dropped")
