"""`muai run`: serve what a config asks for, until told to stop."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click


@click.command(name="run", short_help="Serve the models of a config file.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override an option.")
@click.option("--state-dir", type=click.Path(path_type=Path), default=None)
def command(config: Path, overrides: tuple[str, ...], state_dir: Path | None) -> None:
    """Plan, start, serve and watch the models of CONFIG."""
    import uvloop

    from muai_core import builtin
    from muai_core.config import load_config
    from muai_core.runtime.controller import Controller
    from muai_core.runtime.instance import Instance
    from muai_core.runtime.narrator import Narrator
    from muai_core.runtime.orphans import SpawnRecords, reclaim_orphans

    logging.basicConfig(level=logging.WARNING)
    loaded = load_config(config, overrides, load_plugins=builtin.load)
    home = state_dir or Path(os.environ.get("MUAI_STATE_DIR", "~/.local/state/muai")).expanduser()
    with Instance(home) as instance:
        controller = Controller(
            loaded,
            instance,
            sys.executable,
            Narrator(lambda level, line: click.echo(line, err=True)),
        )

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def on_started(running: Controller) -> None:
                loop.add_signal_handler(signal.SIGINT, running.stop)
                loop.add_signal_handler(signal.SIGTERM, running.stop)

            await controller.run(on_started)

        uvloop.run(main())


if __name__ == "__main__":
    command()
