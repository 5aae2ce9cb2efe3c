"""`muai schema`: the JSON schema of the config file."""

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON schema of the config file, with the options of the installed plugins.

    Editors use it to complete and to check: save it as muai.schema.json and begin the config with
    `# yaml-language-server: $schema=muai.schema.json`.
    """
    from muai_core import builtin
    from muai_core.config.json_schema import json_schema

    click.echo(json.dumps(json_schema(builtin.load()), indent=2))
