"""`muai schema`: the JSON schema of the config file."""

import json

import click


@click.command("schema")
@click.argument("file", required=False)
def command(file: str | None) -> None:
    """Print the JSON schema of the config file, with the options of the installed plugins.

    With a config FILE, the Python files under its `plugins:` count too; their code runs. Editors
    use it to complete and to check: save it as muai.schema.json and begin the config with
    `# yaml-language-server: $schema=muai.schema.json`.
    """
    from muai_core import builtin
    from muai_core.cli.plugins import plugins_of
    from muai_core.config.json_schema import json_schema

    plugins = builtin.load() if file is None else plugins_of(file)
    click.echo(json.dumps(json_schema(plugins), indent=2))
