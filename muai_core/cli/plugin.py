"""`muai plugin`: what authors of plugins need."""

import click

from muai_core.cli.command_table import CommandTable

#: Command → its summary.
COMMANDS = {
    "check": "Try the conformance kit's clauses on a plugin.",
    "new": "Write the skeleton of a plugin that passes them.",
}


@click.group("plugin", cls=CommandTable, summaries=COMMANDS, home="muai_core.cli.plugin_")
def command() -> None:
    """Check a plugin against its contract, or write a new one."""
