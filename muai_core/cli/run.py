"""`muai run`: serve what a config asks for, until told to stop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from muai_core.cli.configured import config_arguments, load_or_exit
from muai_core.cli.state_directory import state_dir_option
from muai_core.cli.teller import Teller, TellerLog

if TYPE_CHECKING:
    from muai_core.runtime.controller import Controller


@click.command(name="run", short_help="Serve the models of a config FILE until stopped.")
@config_arguments
@state_dir_option
@click.option("--quiet", is_flag=True, help="Tell only of failures.")
def command(file: str, settings: tuple[str, ...], state_dir: Path, quiet: bool) -> None:
    """Serve the models of a config FILE until stopped.

    Ctrl-C or SIGTERM lets requests in flight finish, stops every engine and exits with status 0.
    A second one, or SIGQUIT, kills the engines at once. Status 2: the config is wrong, nothing was
    started.
    """
    import uvloop

    from muai_core.gateway.settings import GatewaySettingsError
    from muai_core.plugin.metric_sink import SinkError
    from muai_core.runtime.controller import Controller
    from muai_core.runtime.instance import Instance, InstanceInUse, StateDirectoryError
    from muai_core.runtime.narrator import Narrator

    loaded = load_or_exit(file, settings)
    teller = Teller(quiet)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[TellerLog(teller)],
    )
    tell = teller.tell
    try:
        with Instance(state_dir) as instance:
            controller = Controller(loaded, instance, sys.executable, Narrator(tell))
            status = uvloop.run(_serve(controller, tell))
    except InstanceInUse as error:
        raise click.ClickException(f"{error} (`muai stop`, or --state-dir)") from None
    except StateDirectoryError as error:
        raise click.ClickException(f"{error}; choose another with --state-dir") from None
    except (SinkError, GatewaySettingsError) as error:
        raise click.ClickException(f"{error}; nothing was started") from None
    finally:
        teller.close()
    sys.exit(status)


async def _serve(controller: "Controller", tell: Callable[[str, str], None]) -> int:
    """Run until a signal says otherwise; the exit status."""
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(controller.run(lambda: _announce(controller, tell)))
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        if not controller.started:
            running.cancel()
        elif len(received) == 1 and number != signal.SIGQUIT:
            controller.stop()
        else:
            controller.kill()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # nohup asks for SIGHUP to be ignored. A shell script's `&` ignores SIGINT too, without
        # having been asked, and whoever sends one from there means it.
        if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue
        loop.add_signal_handler(number, on_signal, number)
    try:
        await running
    except asyncio.CancelledError:
        return 128 + received[-1] if received else 1
    hurried = len(received) > 1 or signal.SIGQUIT in received
    return 128 + received[-1] if hurried else 0


def _announce(controller: "Controller", tell: Callable[[str, str], None]) -> None:
    tell("good", f"OpenAI endpoint: {controller.address}/v1")
    for name, location in controller.sink_locations().items():
        tell("info", f"{name}: {location}")
