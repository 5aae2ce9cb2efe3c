"""Where a controller keeps its state, and where the other commands find it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

STATE_DIR_VARIABLE = "MUAI_STATE_DIR"

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def state_dir_option(function: CommandT) -> CommandT:
    """Adds the option `--state-dir` (parameter `state_dir`, an absolute path) to a command."""
    option = click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        metavar="DIRECTORY",
        callback=_chosen,
        help=f"Where the controller keeps its state. Default: ${STATE_DIR_VARIABLE}, else "
        "$XDG_STATE_HOME/muai, else ~/.local/state/muai.",
    )
    return option(function)


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$MUAI_STATE_DIR`, else `muai` in the user's state directory of the XDG specification."""
    own = environ.get(STATE_DIR_VARIABLE)
    if own:
        return Path(own).expanduser().absolute()
    xdg = environ.get("XDG_STATE_HOME")
    # The specification wants relative paths ignored.
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".local" / "state"
    return base / "muai"


def _chosen(_: click.Context, __: click.Parameter, value: Path | None) -> Path:
    return default_state_dir() if value is None else value.expanduser().absolute()
