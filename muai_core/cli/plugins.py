"""`muai plugins`: which plugins there are, what they register, and why one failed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muai_core.cli.output import json_option, print_json, print_table
from muai_core.cli.wording import text

if TYPE_CHECKING:
    from muai_core.plugin.loading import Plugins


@click.command("plugins")
@click.argument("file", required=False)
@json_option
def command(file: str | None, as_json: bool) -> None:
    """List the plugins and what they register.

    With a config FILE, the Python files under its `plugins:` too; their code runs. A plugin that
    failed is listed with the reason, and changes nothing about the exit status.
    """
    import muai_core
    from muai_core import builtin
    from muai_core.runtime.status import plugins_view

    plugins = builtin.load() if file is None else plugins_of(file)
    view = plugins_view(plugins.records, muai_core.__version__)
    if as_json:
        print_json(view)
    else:
        _print(view)


def plugins_of(file: str) -> "Plugins":
    """What the config loads, even when it is wrong otherwise. Raises ConfigError if unreadable."""
    from muai_core import builtin
    from muai_core.config import ConfigError, load_config

    loaded: list[Plugins] = []

    def load(local_files: Sequence[Path]) -> "Plugins":
        loaded.append(builtin.load(local_files))
        return loaded[-1]

    try:
        load_config(file, load_plugins=load)
    except ConfigError:
        if not loaded:
            raise
    return loaded[-1]


def _print(view: list[dict[str, Any]]) -> None:
    rows = [
        [
            plugin["name"],
            text(plugin["version"]),
            plugin["origin"],
            plugin["status"],
            plugin["reason"] or _registered(plugin["registers"]),
        ]
        for plugin in view
    ]
    print_table(["name", "version", "origin", "status", "registers"], rows)


def _registered(parts: list[dict[str, str]]) -> str:
    return ", ".join(f"{part['kind']} {part['name']}" for part in parts)
