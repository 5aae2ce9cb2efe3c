"""`muai version`: what is installed."""

import click

from muai_core.cli.output import UNKNOWN, json_option, print_json


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Print the versions of MuAI, its plugins and Python."""
    import platform

    import muai_core
    from muai_core import builtin

    records = [record for record in builtin.load().records if record.origin != "built-in"]
    plugins = {record.name: record.version for record in records}
    core, python = muai_core.__version__, platform.python_version()
    if as_json:
        print_json({"muai": core, "python": python, "plugins": plugins})
        return
    click.echo(f"muai {core}\nPython {python}")
    for name, version in plugins.items():
        click.echo(f"plugin {name} {version or UNKNOWN}")
