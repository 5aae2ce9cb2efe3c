"""`muai devices`: what there is to run models on, and how it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from muai_core.cli.outlook import Outlook, Picture
from muai_core.cli.output import json_option, note, print_json
from muai_core.cli.state_directory import state_dir_option

DEFAULT_INTERVAL_S = 2.0


@click.command("devices")
@click.argument("file", required=False)
@click.option("--topology", is_flag=True, help="Show how the GPUs of a node reach each other.")
@click.option("--watch", is_flag=True, help="Look again and again until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1, max=3600),
    default=DEFAULT_INTERVAL_S,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks of --watch.",
)
@state_dir_option
@json_option
def command(
    file: str | None,
    topology: bool,
    watch: bool,
    interval_s: float,
    state_dir: Path,
    as_json: bool,
) -> None:
    """List the devices and their health.

    As a running controller sees them; without one, or with a config FILE, they are looked at once.
    A device source that fails is told on stderr.
    """
    if watch and topology:
        raise click.UsageError("--topology does not change, so there is nothing to --watch")
    with _outlook(state_dir, file) as outlook:
        if watch:
            from muai_core.cli.device_watch import watch as watch_devices

            watch_devices(outlook.look, interval_s, as_json)
            return
        picture = outlook.look()
    for remark in picture.remarks():
        note(remark)
    if as_json:
        for fault in picture.faults():
            note(fault)
        print_json(picture.links if topology else picture.devices)
    elif topology:
        _print_topology(picture)
    else:
        _print_devices(picture)


def _print_devices(picture: Picture) -> None:
    from muai_core.cli.device_table import print_devices

    print_devices(picture.devices, picture.faults(), quiet=bool(picture.absences))


def _print_topology(picture: Picture) -> None:
    from muai_core.cli.topology import print_topology

    for fault in picture.faults():
        note(fault)
    print_topology(picture.devices, picture.links)


@contextmanager
def _outlook(state_dir: Path, file: str | None) -> Iterator[Outlook]:
    outlook = Outlook(state_dir, file)
    try:
        yield outlook
    finally:
        outlook.close()
