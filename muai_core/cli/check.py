"""`muai check`: everything that is wrong in a config file, without starting anything."""

import json
from typing import TYPE_CHECKING

import click

from muai_core.cli.configured import config_arguments, load_or_exit, outcome_json

if TYPE_CHECKING:
    from muai_core.config.loaded import LoadedConfig


@click.command("check")
@config_arguments
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def command(file: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Check a config FILE and start nothing.

    Prints every mistake at once, with its line, and exits with status 2 if there is any. Python
    files named under `plugins:` are loaded, so their code runs.
    """
    loaded = load_or_exit(file, settings, as_json)
    if as_json:
        outcome = outcome_json(file, loaded.warnings)
        click.echo(json.dumps({**outcome, "models": list(loaded.config.models)}, indent=2))
    else:
        click.echo(summary(loaded))


def summary(loaded: "LoadedConfig") -> str:
    """One line: the file, its models and its sinks."""
    from muai_core.config.errors import printable

    models = loaded.config.models
    parts = [f"{len(models)} model{'s' if len(models) != 1 else ''} ({', '.join(models)})"]
    sinks = list(loaded.sink_options())
    parts.append(f"{'sinks' if len(sinks) > 1 else 'sink'} {', '.join(sinks)}" if sinks else "")
    if loaded.warnings:
        count = len(loaded.warnings)
        parts.append(f"{count} warning{'s' if count != 1 else ''}")
    return printable(f"{loaded.file}: ok, {', '.join(filter(None, parts))}")
