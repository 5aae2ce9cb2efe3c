"""A local plugin: the simulated engine, whose server writes down the headers that it gets.

Also the program of that server: `python listening_engine.py SPEC`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs
from muai_simulated.engine import SimulatedEngine

from muai_core import Engine, LaunchRequest, LaunchSpec, hookimpl

HEADERS = Path(__file__).with_name("headers.jsonl")


class ListeningEngine(SimulatedEngine):
    name = "listening"

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        simulated = super().launch(request)
        program = (request.python, "-P", __file__, simulated.argv[-1])
        return structs.replace(simulated, argv=program)


@hookimpl
def muai_engines() -> Sequence[Engine]:
    return [ListeningEngine()]


def main() -> int:
    from aiohttp import web
    from muai_simulated.worker import main as simulate

    from muai_core.engine_server import serving

    serve = serving.serve

    @web.middleware
    async def write_down(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/v1/chat"):
            with HEADERS.open("a") as file:
                file.write(json.dumps(dict(request.headers)) + "\n")
        answer: web.StreamResponse = await handler(request)
        return answer

    def listen(*arguments: Any, middlewares: Sequence[Any] = (), **options: Any) -> int:
        return serve(*arguments, middlewares=(write_down, *middlewares), **options)

    serving.serve = listen
    return simulate(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
