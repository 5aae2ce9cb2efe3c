"""The supervisor with real engines of every character: its events tell the truth, all is cleaned.

Engines are small programs with a real HTTP server; each test says how its engine behaves.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from replica_programs import is_alive, until

from muai_core.control import events as ev
from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime import bring_up, replica_life
from muai_core.runtime.bring_up import StageDeadlines
from muai_core.runtime.instance import Instance
from muai_core.runtime.orphans import reclaim_orphans
from muai_core.runtime.ports import LOOPBACK, PortAllocator
from muai_core.runtime.probe import Prober
from muai_core.runtime.supervisor import Supervisor

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
    if os.fork():
        os._exit(0)
    os.setsid()
    print("daemon", os.getpid(), flush=True)
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
        status, body = (200, {"stage": "ready"}) if news is None else (503, {"detail": news})
    data = json.dumps(body).encode()
    connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))
    connection.close()

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", port))
server.listen()
if behaviour.get("exit_after_start"):
    threading.Timer(behaviour["exit_after_start"], os._exit, [7]).start()
while True:
    connection, _ = server.accept()
    threading.Thread(target=answer, args=[connection], daemon=True).start()
"""


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
            deadlines=StageDeadlines(**{"spawn_s": 20, "load_s": 20, "ready_s": 20, **deadlines}),
            prober=Prober(timeout_s=timeout_s),
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
        self, replica_id: str, epoch: int, prepare: Callable[[], Awaitable[LaunchSpec]]
    ) -> None:
        self.supervisor.start(replica_id, epoch, prepare, devices=("GPU-a",))

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

    async def failure(self, replica_id: str = "chat.0") -> ev.ReplicaStartFailed:
        """The start's failure; proves that it is the only end told and that nothing is left."""
        failed = await self.event(ev.ReplicaStartFailed, replica_id)
        await self.is_gone(replica_id)
        assert self.ends(replica_id) == [failed]
        assert isinstance(failed, ev.ReplicaStartFailed)
        return failed

    async def is_gone(self, replica_id: str = "chat.0", epoch: int = 1) -> None:
        release = await self.supervisor.confirm_gone(replica_id, epoch, wait_s=20)
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


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    assert await fleet.supervisor.close() == ()
    fleet.instance.close()


# A life without trouble


async def test_a_replica_is_started_serves_and_is_stopped(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring_up, "_NEWS_EVERY_S", 0)
    launch = fleet.start(health=["loading weights 0 %", "loading weights 50 %", None])
    ready = await fleet.event(ev.ReplicaReady)
    assert ready.endpoint == f"http://127.0.0.1:{launch.port}"
    assert fleet.supervisor.sightings() == (ev.ReplicaSighting("chat.0", 1),)
    [running] = fleet.supervisor.inventory()
    spawned = await fleet.event(ev.ReplicaSpawned)
    assert (running.pid, running.stage) == (spawned.pid, "serving")
    fleet.supervisor.stop("chat.0", 1, grace_s=20)
    ended = await fleet.event(ev.ReplicaExited)
    assert ended.cause == "stopped: killed by SIGTERM"
    await fleet.is_gone()
    assert fleet.supervisor.sightings() == ()
    story = [
        (type(event).__name__, getattr(event, "stage", None), getattr(event, "detail", None))
        for event in fleet.of("chat.0")
    ]
    assert story == [
        ("ReplicaSpawned", None, None),
        ("ReplicaProgressed", "spawn", None),
        ("ReplicaProgressed", "load", None),
        ("ReplicaProgressed", "load", "loading weights 0 %"),
        ("ReplicaProgressed", "load", "loading weights 50 %"),
        ("ReplicaProgressed", "ready", None),
        ("ReplicaReady", None, None),
        ("ReplicaExited", None, None),
    ]


async def test_an_engine_that_talks_a_lot_is_passed_on_now_and_then(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring_up, "_NEWS_EVERY_S", 1000)
    fleet.start(health=[*(f"step {number}" for number in range(10)), None])
    await fleet.event(ev.ReplicaReady)
    progress = [fact for fact in fleet.of("chat.0") if isinstance(fact, ev.ReplicaProgressed)]
    details = [fact.detail for fact in progress if fact.detail is not None]
    assert details == ["step 0"]


async def test_the_record_names_devices_and_members_while_it_runs(fleet: Fleet) -> None:
    fleet.start(child=True)
    await fleet.event(ev.ReplicaReady)
    child = fleet.pid_in_log("child")
    record = fleet.directory / "state" / "replicas" / "chat.0-1.json"
    await until(lambda: child in [pid for pid, _ in json.loads(record.read_bytes())["members"]])
    assert json.loads(record.read_bytes())["devices"] == ["GPU-a"]
    fleet.supervisor.stop("chat.0", 1, grace_s=20)
    await fleet.is_gone()
    assert not is_alive(child)


async def test_starting_an_incarnation_twice_changes_nothing(fleet: Fleet) -> None:
    fleet.start()
    fleet.start()
    await fleet.event(ev.ReplicaReady)
    assert len(fleet.events_spawned("chat.0", 1)) == 1


async def test_a_logs_tail_comes_from_this_incarnation_and_few_old_logs_are_kept(
    fleet: Fleet,
) -> None:
    for epoch in range(1, 9):
        fleet.start(epoch=epoch, say=f"epoch {epoch}", run="raise SystemExit(1)")
        failed = await fleet.event(ev.ReplicaStartFailed, epoch=epoch)
        assert failed.log_tail == f"epoch {epoch}"
        await fleet.is_gone(epoch=epoch)
    logs = sorted(path.name for path in (fleet.directory / "state" / "logs").iterdir())
    assert logs == [f"chat.0-{epoch}.log" for epoch in range(4, 9)]


# Starts that fail


@pytest.mark.parametrize(
    ("run", "cause"),
    [
        ("raise SystemExit(0)", "exited with status 0 in stage spawn, after "),
        ("raise RuntimeError('no kernel image')", "exited with status 1 in stage spawn, after "),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV in stage spawn, after "),
    ],
)
async def test_an_exit_during_the_start_ends_it_at_once(fleet: Fleet, run: str, cause: str) -> None:
    fleet.start(run=run)
    failed = await fleet.failure()
    assert failed.cause.startswith(cause)
    assert failed.log_tail.startswith("engine up")
    if "kernel" in run:
        assert failed.log_tail.endswith("RuntimeError: no kernel image")


async def test_an_exit_while_loading_names_the_stage(fleet: Fleet) -> None:
    fleet.start(health=["loading"], exit_after_start=0.3)
    assert (await fleet.failure()).cause.startswith("exited with status 7 in stage load, after ")


async def test_a_daemon_that_leaves_us_its_parent_is_a_failed_start_and_is_killed(
    fleet: Fleet,
) -> None:
    fleet.start(daemon=True)
    failed = await fleet.failure()
    assert failed.cause.startswith("exited with status 0 in stage ")
    await until(lambda: "daemon" in fleet.supervisor.log_path("chat.0", 1).read_text())
    daemon = fleet.pid_in_log("daemon")
    await until(lambda: not is_alive(daemon))


@pytest.mark.parametrize(
    ("behaviour", "deadlines", "cause"),
    [
        (
            {"run": "time.sleep(600)"},
            {"spawn_s": 0.5},
            "stage spawn took longer than 0.5 s: nothing listens on 127.0.0.1:{port}",
        ),
        (
            {"health": ["loading weights 40 %"], "ignore_sigterm": True},
            {"load_s": 0.5},
            "stage load took longer than 0.5 s: GET /health answers 503: loading weights 40 %",
        ),
        (
            {"raw": "HTTP/1.1 500 Oops\r\n\r\n" + "x" * 100_000},
            {"load_s": 0.5},
            "stage load took longer than 0.5 s: GET /health answers 500",
        ),
        (
            {"raw": "\x00\xff garbage\r\n\r\n"},
            {"load_s": 0.5},
            "stage load took longer than 0.5 s: GET /health: no HTTP answer (",
        ),
        (
            {"raw": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1", "linger": 600},
            {"load_s": 0.8},
            "stage load took longer than 0.8 s: GET /health: no complete answer within 0.1 s",
        ),
        (
            {"name": "other"},
            {"ready_s": 0.5},
            "stage ready took longer than 0.5 s: GET /v1/models lists other, not chat",
        ),
    ],
    ids=["never listens", "loads forever", "huge errors", "garbage", "slow loris", "other model"],
)
async def test_each_stage_has_its_deadline(
    fleet: Fleet,
    behaviour: dict[str, Any],
    deadlines: dict[str, float],
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_life, "_FAILED_START_GRACE_S", 0.1)
    fleet.make_supervisor(timeout_s=0.1, **deadlines)
    launch = fleet.start(**behaviour)
    failed = await fleet.failure()
    assert failed.cause.startswith(cause.format(port=launch.port))
    assert failed.log_tail == "engine up"


async def test_an_engine_that_listens_late_has_the_load_deadline_for_it(fleet: Fleet) -> None:
    fleet.make_supervisor(spawn_s=5, load_s=0.5)
    launch = fleet.launch({"run": "time.sleep(600)"}, listens_while_loading=False)
    fleet.start_prepared("chat.0", 1, lambda: returning(launch))
    assert (await fleet.failure()).cause == (
        "stage load took longer than 0.5 s: "
        f"GET /health: nothing listens on 127.0.0.1:{launch.port}"
    )


async def test_a_missing_program_is_named(fleet: Fleet) -> None:
    launch = fleet.launch({}, argv=("/nowhere/python", "-m", "engine"))
    fleet.start_prepared("chat.0", 1, lambda: returning(launch))
    assert (await fleet.failure()).cause == "cannot run /nowhere/python: No such file or directory"


async def test_a_missing_directory_is_named(fleet: Fleet) -> None:
    launch = fleet.launch({}, cwd="/nowhere")
    fleet.start_prepared("chat.0", 1, lambda: returning(launch))
    assert "No such file or directory: /nowhere" in (await fleet.failure()).cause


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("no tensor parallelism"), "ValueError: no tensor parallelism"),
     (SystemExit(3), "SystemExit: 3"), (KeyError(), "KeyError")],
)  # fmt: skip
async def test_a_plugin_that_raises_fails_its_own_start(
    fleet: Fleet, error: BaseException, words: str
) -> None:
    async def prepare() -> LaunchSpec:
        def work() -> LaunchSpec:
            raise error

        return await asyncio.to_thread(work)

    fleet.start_prepared("chat.0", 1, prepare)
    failed = await fleet.failure()
    assert failed.cause == f"the engine plugin could not say how to start it: {words}"


async def forever() -> LaunchSpec:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_plugin_that_never_answers_misses_the_spawn_deadline(fleet: Fleet) -> None:
    fleet.make_supervisor(spawn_s=0.2)
    fleet.start_prepared("chat.0", 1, forever)
    assert fleet.supervisor.sightings() == (ev.ReplicaSighting("chat.0", 1),)
    failed = await fleet.failure()
    assert failed.cause == (
        "stage spawn took longer than 0.2 s: the engine plugin has not said how to start it"
    )


async def test_a_bug_in_one_replicas_supervision_stays_there(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.start("other.0")
    await fleet.event(ev.ReplicaReady, "other.0")
    with monkeypatch.context() as patch:
        patch.setattr(replica_life, "bring_up", lambda *arguments: 1 / 0)
        fleet.start()
        ended = await fleet.event(ev.ReplicaExited)
    assert ended.cause == "its supervision failed: ZeroDivisionError: division by zero"
    await fleet.is_gone()
    assert fleet.ends("other.0") == []


# Stopping at any moment


@pytest.mark.parametrize("moment", ["at once", "prepare", "spawn", "load", "serving"])
async def test_a_replica_can_be_stopped_at_any_moment(fleet: Fleet, moment: str) -> None:
    if moment in ("at once", "prepare"):
        fleet.start_prepared("chat.0", 1, forever)
    elif moment == "spawn":
        fleet.start(run="time.sleep(600)")
        await fleet.event(ev.ReplicaSpawned)
    elif moment == "load":
        fleet.start(health=["loading"])
        await until(lambda: any(getattr(e, "detail", None) for e in fleet.events))
    else:
        fleet.start()
        await fleet.event(ev.ReplicaReady)
    if moment == "prepare":
        await asyncio.sleep(0)
    fleet.supervisor.stop("chat.0", 1, grace_s=20)
    ended = await fleet.event(ev.ReplicaExited)
    assert ended.cause.startswith("stopped")
    await fleet.is_gone()
    assert fleet.ends() == [ended]
    assert all(
        not isinstance(event, ev.ReplicaReady) or moment == "serving" for event in fleet.events
    )


async def test_a_second_stop_without_grace_hurries_the_first(fleet: Fleet) -> None:
    fleet.start(ignore_sigterm=True, child=True)
    await fleet.event(ev.ReplicaReady)
    child = fleet.pid_in_log("child")
    fleet.supervisor.stop("chat.0", 1, grace_s=600)
    await asyncio.sleep(0.05)
    assert fleet.ends() == []
    fleet.supervisor.stop("chat.0", 1, grace_s=0)
    assert (await fleet.event(ev.ReplicaExited)).cause == "stopped: killed by SIGKILL"
    await fleet.is_gone()
    assert not is_alive(child)
    assert len(fleet.ends()) == 1


async def test_stopping_what_does_not_run_says_so(fleet: Fleet) -> None:
    fleet.supervisor.stop("chat.0", 4, grace_s=1)
    assert fleet.ends(epoch=4) == [
        ev.ReplicaExited(replica_id="chat.0", epoch=4, cause="no process of it runs")
    ]
    assert (await fleet.supervisor.confirm_gone("chat.0", 4, wait_s=0)).proven


async def test_what_refuses_to_die_is_not_released_until_it_does(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.start()
    await fleet.event(ev.ReplicaReady)
    [running] = fleet.supervisor.inventory()
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda group, number: None)
        patch.setattr("muai_core.runtime.process.kill_exactly", lambda identity: True)
        patch.setattr("muai_core.runtime.process._KILL_WAIT_S", 0.1)
        release = await fleet.supervisor.confirm_gone("chat.0", 1, wait_s=0.5)
    assert not release.proven
    assert fleet.ends() == []
    assert is_alive(running.pid or 0)
    fleet.supervisor.stop("chat.0", 1, grace_s=0)
    await fleet.event(ev.ReplicaExited)
    await fleet.is_gone()


# Serving replicas that end


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_death_of_a_serving_replica_is_told_at_once(
    fleet: Fleet, number: signal.Signals
) -> None:
    fleet.start(child=False, say="CUDA error: out of memory")
    await fleet.event(ev.ReplicaReady)
    spawned = await fleet.event(ev.ReplicaSpawned)
    child = fleet.pid_in_log("child")
    killed_at = time.monotonic()
    os.kill(spawned.pid, number)
    ended = await fleet.event(ev.ReplicaExited)
    assert time.monotonic() - killed_at < 0.5
    assert ended.cause.startswith(f"killed by {number.name}")
    assert ("memory runs out" in ended.cause) == (number is signal.SIGKILL)
    assert "CUDA error: out of memory" in ended.log_tail
    assert fleet.supervisor.sightings() == ()
    await fleet.is_gone()
    assert not is_alive(child)


async def test_a_closed_output_and_a_flood_of_output_hurt_nobody(fleet: Fleet) -> None:
    flood = "threading.Thread(target=lambda: [print('x' * 100000) for _ in range(500)]).start()"
    fleet.start("quiet.0", close_output=True)
    fleet.start("loud.0", run=flood)
    for replica_id in ("quiet.0", "loud.0"):
        await fleet.event(ev.ReplicaReady, replica_id)
    await until(lambda: fleet.supervisor.log_path("loud.0", 1).stat().st_size > 50_000_000)
    os.kill((await fleet.event(ev.ReplicaSpawned, "loud.0")).pid, signal.SIGKILL)
    ended = await fleet.event(ev.ReplicaExited, "loud.0")
    assert len(ended.log_tail) < 10_000
    assert fleet.ends("quiet.0") == []


# The controller's end


async def test_kill_all_leaves_nothing_and_starts_nothing(fleet: Fleet) -> None:
    fleet.start("stubborn.0", ignore_sigterm=True, child=True)
    fleet.start("plain.0")
    fleet.start_prepared("early.0", 1, forever)
    for replica_id in ("stubborn.0", "plain.0"):
        await fleet.event(ev.ReplicaReady, replica_id)
    pids = [fact.pid for fact in fleet.events if isinstance(fact, ev.ReplicaSpawned)]
    pids.append(fleet.pid_in_log("child", "stubborn.0"))
    assert fleet.supervisor.kill_all(wait_s=20) == ()
    assert not any(is_alive(pid) for pid in pids)
    fleet.start("late.0")
    assert (await fleet.event(ev.ReplicaStartFailed, "late.0")).cause == "the controller is ending"


async def test_closing_lets_engines_finish_and_waits_for_them(fleet: Fleet) -> None:
    fleet.start("chat.0")
    fleet.start("slow.0", ignore_sigterm=True)
    for replica_id in ("chat.0", "slow.0"):
        await fleet.event(ev.ReplicaReady, replica_id)
    assert await fleet.supervisor.close(grace_s=0.5) == ()
    assert [fact.cause for fact in fleet.ends("chat.0")] == ["stopped: killed by SIGTERM"]
    assert [fact.cause for fact in fleet.ends("slow.0")] == ["stopped: killed by SIGKILL"]
    assert fleet.supervisor.inventory() == ()


CONTROLLER = """
import asyncio, sys
from pathlib import Path
from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime.instance import Instance
from muai_core.runtime.supervisor import Supervisor

async def main():
    supervisor = Supervisor(Instance(Path(sys.argv[1])), lambda event: print(event, flush=True))
    async def prepare():
        return LaunchSpec(argv=tuple(sys.argv[3:]), host="127.0.0.1", port=int(sys.argv[2]),
                          served_model_name="chat")
    supervisor.start("chat.0", 1, prepare, devices=("GPU-a",))
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_restarted_controller_reclaims_what_its_predecessor_left(fleet: Fleet) -> None:
    fleet.instance.close()
    state_dir = fleet.directory / "state"
    launch = fleet.launch({"child": True})
    controller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONTROLLER, str(state_dir), str(launch.port), *launch.argv,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert controller.stdout is not None
    async with asyncio.timeout(20):
        while b"ReplicaReady" not in await controller.stdout.readline():
            pass
    child = fleet.pid_in_log("child")
    controller.kill()
    await controller.wait()
    assert is_alive(child)
    with Instance(state_dir) as instance:
        [orphan] = await asyncio.to_thread(reclaim_orphans, state_dir, instance.id)
    assert (orphan.replica_id, orphan.epoch, orphan.devices) == ("chat.0", 1, ("GPU-a",))
    assert not is_alive(child)
