"""What every command that reads a config shares: arguments, errors, exit status."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from muai_core.config.errors import ConfigError, Problem
    from muai_core.config.loaded import LoadedConfig

EXIT_CONFIG_ERROR = 2

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def config_arguments(function: CommandT) -> CommandT:
    """Adds the argument `file` and the option `--set` (parameter `settings`) to a command."""
    option = click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="PATH=VALUE",
        help="Override one value, as in gateway.port=8080. Repeatable; stronger than the "
        "environment and the file.",
    )
    return click.argument("file")(option(function))


def load_or_exit(file: str, settings: Sequence[str], as_json: bool = False) -> "LoadedConfig":
    """The checked config; with mistakes, reports them all and exits with status 2.

    Warnings go to stderr. With `as_json` the mistakes are one JSON object on stdout, so that a
    script reads one stream whatever the outcome.
    """
    from muai_core import builtin
    from muai_core.config import ConfigError, load_config

    try:
        loaded = load_config(file, settings, load_plugins=builtin.load)
    except ConfigError as error:
        report_and_exit(file, error, as_json)
    if not as_json:
        for warning in loaded.warnings:
            click.echo(warning.text(), err=True)
    return loaded


def report_and_exit(file: str, error: "ConfigError", as_json: bool) -> NoReturn:
    """Report every mistake, as text on stderr or as JSON on stdout, and exit with status 2."""
    if as_json:
        click.echo(json.dumps(outcome_json(file, error.problems), indent=2))
    else:
        click.echo(str(error), err=True)
    sys.exit(EXIT_CONFIG_ERROR)


def outcome_json(file: str, problems: "Sequence[Problem]") -> dict[str, Any]:
    """Keys: file, ok, problems (each as `Problem.to_json`). Stable."""
    return {
        "file": file,
        "ok": not any(problem.severity == "error" for problem in problems),
        "problems": [problem.to_json() for problem in problems],
    }
