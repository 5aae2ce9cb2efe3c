"""A supervisor with real engines: small programs with an HTTP server that behave as told."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from replica_programs import DEADLINE_S, is_alive, until

from muai_core.control import events as ev
from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime.bring_up import StageDeadlines
from muai_core.runtime.instance import Instance
from muai_core.runtime.ports import LOOPBACK, PortAllocator
from muai_core.runtime.probe import Prober
from muai_core.runtime.supervisor import Supervisor
from muai_core.runtime.verdicts import Verdicts

#: An engine that behaves as the JSON in its last argument says.
ENGINE = r"""
import json, os, signal, socket, subprocess, sys, threading, time
port, behaviour = int(sys.argv[1]), json.loads(sys.argv[2])
said = behaviour.get("health", [])
if behaviour.get("ignore_sigterm"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in behaviour:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=behaviour["child"])
    print("child", child.pid, flush=True)
print(behaviour.get("say", "engine up"), flush=True)
if behaviour.get("daemon"):
    has_left, leaves = os.pipe()
    if os.fork():
        os.read(has_left, 1)
        os._exit(0)
    os.setsid()
    print("daemon", os.getpid(), flush=True)
    os.write(leaves, b"x")
if behaviour.get("close_output"):
    os.close(1), os.close(2)
if "run" in behaviour:
    exec(behaviour["run"])

def answer(connection):
    request = connection.recv(65536).decode()
    if not request:
        return connection.close()
    path = request.split(" ")[1]
    if path == "/v1/models":
        status, body = 200, {"data": [{"id": behaviour.get("name", "chat")}]}
    elif "raw" in behaviour:
        connection.sendall(behaviour["raw"].encode("latin-1"))
        time.sleep(behaviour.get("linger", 0))
        connection.close()
        return
    else:
        news = said.pop(0) if len(said) > 1 else said[0] if said else None
        if news == "exit":
            os._exit(7)
        status, body = (200, {"stage": "ready"}) if news is None else (503, {"detail": news})
    data = json.dumps(body).encode()
    connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))
    connection.close()

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", port))
server.listen()
while True:
    connection, _ = server.accept()
    threading.Thread(target=answer, args=[connection], daemon=True).start()
"""
#: How long a process may be stopped.
STOPPED_LIMIT_S = 1.0
START_DEADLINES = {"spawn_s": DEADLINE_S, "load_s": DEADLINE_S, "ready_s": DEADLINE_S}


class Fleet:
    """A supervisor, the events it emitted, and a way to start engines with a behaviour."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instance = Instance(directory / "state")
        self.events: list[ev.Event] = []
        self.ports = PortAllocator()
        self.supervisor = self.make_supervisor()
        self.program = directory / "engine.py"
        self.program.write_text(ENGINE)

    def make_supervisor(self, timeout_s: float = 5.0, **deadlines: float) -> Supervisor:
        self.supervisor = Supervisor(
            self.instance,
            self.events.append,
            deadlines=StageDeadlines(**{**START_DEADLINES, **deadlines}),
            prober=Prober(timeout_s=timeout_s),
            stopped_limit_s=STOPPED_LIMIT_S,
        )
        return self.supervisor

    def launch(self, behaviour: dict[str, Any], **changes: Any) -> LaunchSpec:
        port = self.ports.free_port()
        argv = (sys.executable, str(self.program), str(port), json.dumps(behaviour))
        settings = {"argv": argv, "host": LOOPBACK, "port": port, "served_model_name": "chat"}
        return LaunchSpec(**{**settings, **changes})

    def start(self, replica_id: str = "chat.0", epoch: int = 1, **behaviour: Any) -> LaunchSpec:
        launch = self.launch(behaviour)
        self.start_prepared(replica_id, epoch, lambda: returning(launch))
        return launch

    def start_prepared(
        self,
        replica_id: str,
        epoch: int,
        prepare: Callable[[], Awaitable[LaunchSpec]],
        verdicts: Verdicts | None = None,
    ) -> None:
        self.supervisor.start(replica_id, epoch, prepare, devices=("GPU-a",), verdicts=verdicts)

    def of(self, replica_id: str, epoch: int = 1) -> list[ev.ReplicaFact]:
        facts = [event for event in self.events if isinstance(event, ev.ReplicaFact)]
        return [fact for fact in facts if (fact.replica_id, fact.epoch) == (replica_id, epoch)]

    async def event(self, kind: type[Any], replica_id: str = "chat.0", epoch: int = 1) -> Any:
        found: list[ev.ReplicaFact] = []

        def is_there() -> bool:
            found[:] = [fact for fact in self.of(replica_id, epoch) if isinstance(fact, kind)]
            return bool(found)

        await until(is_there)
        return found[0]

    async def failure(self, replica_id: str = "chat.0", epoch: int = 1) -> ev.ReplicaStartFailed:
        """The start's failure; proves that it is the only end told and that nothing is left."""
        failed = await self.event(ev.ReplicaStartFailed, replica_id, epoch)
        await self.is_gone(replica_id, epoch)
        assert self.ends(replica_id, epoch) == [failed]
        assert isinstance(failed, ev.ReplicaStartFailed)
        return failed

    async def is_gone(self, replica_id: str = "chat.0", epoch: int = 1) -> None:
        release = await self.supervisor.confirm_gone(replica_id, epoch, wait_s=DEADLINE_S)
        assert release.proven, release.survivors
        assert not any(is_alive(event.pid) for event in self.events_spawned(replica_id, epoch))
        await until(lambda: (replica_id, epoch) not in self.supervised())
        assert not list((self.directory / "state" / "replicas").glob(f"{replica_id}-{epoch}.*"))

    def supervised(self) -> list[tuple[str, int]]:
        return [(left.replica_id, left.epoch) for left in self.supervisor.inventory()]

    def events_spawned(self, replica_id: str, epoch: int) -> list[ev.ReplicaSpawned]:
        return [fact for fact in self.of(replica_id, epoch) if isinstance(fact, ev.ReplicaSpawned)]

    def ends(self, replica_id: str = "chat.0", epoch: int = 1) -> list[ev.ReplicaFact]:
        final = (ev.ReplicaStartFailed, ev.ReplicaExited)
        return [fact for fact in self.of(replica_id, epoch) if isinstance(fact, final)]

    def pid_in_log(self, word: str, replica_id: str = "chat.0", epoch: int = 1) -> int:
        rows = self.supervisor.log_path(replica_id, epoch).read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith(word + " "))


async def returning(launch: LaunchSpec) -> LaunchSpec:
    return launch


async def forever() -> LaunchSpec:
    await asyncio.Event().wait()
    raise AssertionError
