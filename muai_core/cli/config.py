"""`muai config`: the effective config, and where each value came from."""

import json

import click

from muai_core.cli.configured import config_arguments, load_or_exit


@click.command("config")
@config_arguments
@click.option("--json", "as_json", is_flag=True, help="Print values and origins as JSON.")
def command(file: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Print the effective config of FILE as YAML.

    The comment behind each value says where it was given: the file and its line, an environment
    variable, --set, an engine's default in `optimization`, or the built-in default. Secrets are
    printed as ***.
    """
    loaded = load_or_exit(file, settings, as_json)
    from muai_core.config.rendering import render_json, render_yaml

    if as_json:
        click.echo(json.dumps(render_json(loaded), indent=2))
    else:
        click.echo(render_yaml(loaded), nl=False)
