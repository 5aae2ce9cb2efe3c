"""`muai plan`: what would be placed where, without starting anything."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from muai_core.cli.configured import (
    EXIT_CONFIG_ERROR,
    config_arguments,
    load_or_exit,
    report_and_exit,
)
from muai_core.cli.output import json_option, note, print_json
from muai_core.cli.state_directory import default_state_dir, state_dir_option

if TYPE_CHECKING:
    from muai_core.model.device import Inventory
    from muai_core.runtime.dry_run import DryRun

EXIT_UNPLACED = 1
#: With --diff: something would change.
EXIT_CHANGED = 4

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class WrongDevices(click.ClickException):
    """`--devices` or `--without` names what cannot be."""

    exit_code = EXIT_CONFIG_ERROR


def devices_option(function: CommandT) -> CommandT:
    """Adds the option `--devices` (parameter `specs`) to a command."""
    option = click.option(
        "--devices",
        "specs",
        multiple=True,
        metavar="SPEC",
        help="Plan on devices that need not be here: 8xH100-80GB, 4xA100-40GB,2xL4-24GB (one mixed "
        "box), 2x8xH100-80GB (two boxes), or an inventory file, such as the output of "
        "`muai devices --json`. Repeatable: one box, or one kind of box, each.",
    )
    return option(function)


@click.command("plan")
@config_arguments
@click.option("--strategy", metavar="NAME", help="Short for --set allocation.strategy=NAME.")
@devices_option
@click.option(
    "--without",
    "lost",
    multiple=True,
    metavar="DEVICE",
    help="What if it died: a UUID or its beginning, box/gpu3, 3, or a whole node. Repeatable: all "
    "at once.",
)
@click.option(
    "--diff",
    is_flag=True,
    help="Show what FILE would change in the running controller; exits with 4 if anything.",
)
@state_dir_option
@json_option
def command(
    file: str,
    settings: tuple[str, ...],
    strategy: str | None,
    specs: tuple[str, ...],
    lost: tuple[str, ...],
    diff: bool,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Show what would be placed where, and start nothing.

    Looks at the devices once and takes what runs on them now, another controller's engines too,
    for foreign; with --devices it looks at none. Exits with status 1 when a replica finds no
    devices.
    """
    if strategy is not None:
        settings = (*settings, f"allocation.strategy={strategy}")
    if diff:
        if specs or lost:
            raise click.UsageError(
                "--diff is about the devices of the running controller as they are"
            )
        _diff(file, settings, state_dir, as_json)
        return
    _plan(file, settings, specs, lost, state_dir, as_json)


def _diff(file: str, settings: tuple[str, ...], state_dir: Path, as_json: bool) -> None:
    from muai_core.cli.plan_diff import diff_of, print_diff

    view = diff_of(file, settings, state_dir, as_json)
    if as_json:
        print_json(view)
    else:
        print_diff(view)
    if not view["changed"]:
        sys.exit(0)
    sys.exit(EXIT_UNPLACED if view["unplaced"] else EXIT_CHANGED)


def _plan(
    file: str,
    settings: tuple[str, ...],
    specs: tuple[str, ...],
    lost: tuple[str, ...],
    state_dir: Path,
    as_json: bool,
) -> None:
    from muai_core.runtime.plan import plan_view
    from muai_core.runtime.what_if import lose

    result = dry_run_or_exit(file, settings, as_json, specs, state_dir)
    try:
        question = lose(result, lost) if lost else None
    except LookupError as error:
        wrong_devices(file, f"--without: {error}", as_json)
    view = {"config": file, **plan_view(result, question)}
    if as_json:
        print_json(view)
    else:
        _print(view)
    sys.exit(EXIT_UNPLACED if view["unplaced"] else 0)


def _print(view: dict[str, Any]) -> None:
    from muai_core.cli.plan_report import print_plan, print_what_if

    if view["what_if"] is not None:
        print_what_if(view)
    print_plan(view)


def dry_run_or_exit(
    file: str,
    settings: Sequence[str],
    as_json: bool,
    specs: Sequence[str] = (),
    state_dir: Path | None = None,
) -> "DryRun":
    """A config's dry run; exits with status 2, all mistakes told, when something is wrong."""
    from muai_core.config import ConfigError
    from muai_core.runtime.dry_run import dry_run

    loaded = load_or_exit(file, settings, as_json)
    inventory = inventory_or_exit(file, specs, as_json) if specs else None
    if state_dir is None:
        state_dir = default_state_dir()
    try:
        return dry_run(loaded, note, state_dir=state_dir, inventory=inventory)
    except ConfigError as error:
        report_and_exit(file, error, as_json)


def inventory_or_exit(file: str, specs: Sequence[str], as_json: bool) -> "Inventory":
    """The devices that `--devices` names; exits with status 2 when they make no sense."""
    from muai_core.runtime.fleet_spec import FleetError
    from muai_core.runtime.hardware import read_hardware

    try:
        return read_hardware(specs, sys.stdin.buffer.read)
    except FleetError as error:
        wrong_devices(file, f"--devices: {error}", as_json)


def wrong_devices(file: str, message: str, as_json: bool) -> NoReturn:
    """Report one mistake of the command line as `report_and_exit` does, and exit with status 2."""
    from muai_core.config.errors import ConfigError, Origin, Problem

    if not as_json:
        raise WrongDevices(message)
    option, _, words = message.partition(": ")
    report_and_exit(file, ConfigError([Problem(Origin("env", option), "", words)]), as_json)
