"""`muai plan`: what would be placed where, without starting anything."""

import sys
from typing import TYPE_CHECKING, Any

import click

from muai_core.cli.configured import config_arguments, load_or_exit, report_and_exit
from muai_core.cli.output import json_option, note, paragraph, print_json, print_table
from muai_core.cli.state_directory import default_state_dir
from muai_core.cli.verdicts import print_verdicts
from muai_core.cli.wording import counted, device_ranges, memory, shape, text
from muai_core.runtime.device_names import device_name

if TYPE_CHECKING:
    from muai_core.runtime.dry_run import DryRun

EXIT_UNPLACED = 1


@click.command("plan")
@config_arguments
@click.option("--strategy", metavar="NAME", help="Short for --set allocation.strategy=NAME.")
@json_option
def command(file: str, settings: tuple[str, ...], strategy: str | None, as_json: bool) -> None:
    """Show what would be placed where, and start nothing.

    Looks at the devices once and takes what runs on them now, another controller's engines too,
    for foreign. Exits with status 1 when a replica finds no devices.
    """
    if strategy is not None:
        settings = (*settings, f"allocation.strategy={strategy}")
    view = plan_of(file, settings, as_json)
    if as_json:
        print_json(view)
    else:
        print_plan(view)
    sys.exit(EXIT_UNPLACED if view["unplaced"] else 0)


def plan_of(file: str, settings: tuple[str, ...], as_json: bool) -> dict[str, Any]:
    """The plan of a config as documented in docs/cli.md; exits with status 2 on a wrong config."""
    from muai_core.runtime.plan import plan_view

    result = dry_run_or_exit(file, settings, as_json)
    return {"config": file, **plan_view(result)}


def dry_run_or_exit(file: str, settings: tuple[str, ...], as_json: bool) -> "DryRun":
    """A config's dry run; exits with status 2, all mistakes told, when the config is wrong."""
    from muai_core.config import ConfigError
    from muai_core.runtime.dry_run import dry_run

    loaded = load_or_exit(file, settings, as_json)
    try:
        return dry_run(loaded, note, state_dir=default_state_dir())
    except ConfigError as error:
        report_and_exit(file, error, as_json)


def print_plan(view: dict[str, Any]) -> None:
    """The plan as tables: models, replicas, devices, and what was not placed."""
    for rejected in view["events_rejected"]:
        note(rejected)
    _print_models(view)
    devices = view["devices"]
    if any(model["placement"] for model in view["models"].values()):
        paragraph()
        _print_replicas(view)
    paragraph()
    _print_devices(devices)
    for unplaced in view["unplaced"]:
        paragraph()
        paragraph(f"{unplaced['replica']} finds no devices: {unplaced['summary']}")
        print_verdicts(
            {**refusal, "verdict": "refused", "device": devices.get(refusal["device"])}
            for refusal in unplaced["refusals"]
        )
    paragraph()
    paragraph(_summary(view))


def _print_models(view: dict[str, Any]) -> None:
    rows = [
        [
            name,
            model["engine"],
            shape(model["tensor_parallel_size"], model["pipeline_parallel_size"]),
            f"{len(model['placement'])}/{model['replicas']}",
            memory(model["memory_bytes_per_device"]),
            model["engine_reason"],
        ]
        for name, model in view["models"].items()
    ]
    headings = ["model", "engine", "shape", "placed", "per device", "why this engine"]
    print_table(headings, rows, right="per device")


def _print_replicas(view: dict[str, Any]) -> None:
    rows = []
    for model in view["models"].values():
        for replica in model["placed"]:
            stages = [
                device_ranges(view["devices"][uuid] for uuid in stage)
                for stage in replica["stages"]
            ]
            claims = sorted(set(replica["claims"].values()))
            claimed = memory(claims[0]) if len(claims) == 1 else "differs"
            rows.append([replica["replica"], " | ".join(stages), claimed, text(replica["reason"])])
    print_table(
        ["replica", "devices by stage", "claims", "why these devices"], rows, right="claims"
    )


def _print_devices(devices: dict[str, Any]) -> None:
    rows = [
        [
            device_name(device),
            device["name"],
            memory(device["capacity_bytes"]),
            memory(device["foreign_bytes"]),
            memory(device["claimed_bytes"]),
            memory(device["free_bytes"]),
            device["health"],
            " ".join(device["claims"]),
        ]
        for device in devices.values()
    ]
    headings = ["device", "name", "capacity", "foreign", "claimed", "free", "health", "replicas"]
    print_table(headings, rows, right="capacity, foreign, claimed, free")


def _summary(view: dict[str, Any]) -> str:
    placed = sum(len(model["placement"]) for model in view["models"].values())
    wanted = sum(model["replicas"] for model in view["models"].values())
    used = sum(bool(device["claims"]) for device in view["devices"].values())
    there = counted(len(view["devices"]), "device")
    return (
        f"{placed} of {counted(wanted, 'replica')} placed on {used} of {there} "
        f"by strategy {view['strategy']}; nothing was started."
    )
