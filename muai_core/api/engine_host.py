"""The process behind an engine of the Python API: a controller of one model.

Run as `python -P -m muai_core.api.engine_host CONFIG STATE_DIR`. It is a process of its own because
engines die with the thread that started them, which must be a main thread. It ends when its stdin
does, so it never outlives the program that started it, however that ends.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import uvloop

from muai_core import builtin
from muai_core.api.engine_config import optimization_variables
from muai_core.config import ConfigError, load_config
from muai_core.gateway.settings import GatewaySettingsError
from muai_core.runtime.controller import Controller
from muai_core.runtime.instance import Instance, StateDirectoryError
from muai_core.runtime.narrator import Narrator

_STDIN = 0


def main(arguments: list[str]) -> int:
    """Serve until stdin ends or SIGTERM comes; a second SIGTERM kills. The exit status."""
    config, state_dir = arguments
    try:
        loaded = load_config(config, environ=optimization_variables(), load_plugins=builtin.load)
        with Instance(Path(state_dir)) as instance:
            uvloop.run(_serve(Controller(loaded, instance, sys.executable, Narrator(_tell))))
    except (ConfigError, GatewaySettingsError, StateDirectoryError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _serve(controller: Controller) -> None:
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(controller.run(lambda: None))
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if not controller.started:
            running.cancel()
        elif asked == 1:
            controller.stop()
        else:
            controller.kill()

    def read() -> None:
        if not os.read(_STDIN, 4096):
            loop.remove_reader(_STDIN)
            stop()

    loop.add_reader(_STDIN, read)
    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        await running
    except asyncio.CancelledError:
        if not asked:
            raise


def _tell(_severity: str, line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
