"""The supervisor with real engines of every character: its events tell the truth."""

import asyncio
import json
import os
import signal
import sys

import pytest
from replica_programs import DEADLINE_S, is_alive, until
from supervised_fleet import Fleet, forever

from muai_core.control import events as ev
from muai_core.runtime import bring_up
from muai_core.runtime.instance import Instance
from muai_core.runtime.orphans import reclaim_orphans

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
    fleet.supervisor.stop("chat.0", 1, grace_s=DEADLINE_S)
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
    fleet.supervisor.stop("chat.0", 1, grace_s=DEADLINE_S)
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
    fleet.supervisor.stop("chat.0", 1, grace_s=DEADLINE_S)
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
async def test_the_death_of_a_serving_replica_is_told(fleet: Fleet, number: signal.Signals) -> None:
    fleet.start(child=False, say="CUDA error: out of memory")
    await fleet.event(ev.ReplicaReady)
    spawned = await fleet.event(ev.ReplicaSpawned)
    child = fleet.pid_in_log("child")
    os.kill(spawned.pid, number)
    ended = await fleet.event(ev.ReplicaExited)
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
    assert fleet.supervisor.kill_all(wait_s=DEADLINE_S) == ()
    assert not any(is_alive(pid) for pid in pids)
    fleet.start("late.0")
    assert (await fleet.event(ev.ReplicaStartFailed, "late.0")).cause == "the controller is ending"


async def test_closing_lets_engines_finish_and_waits_for_them(fleet: Fleet) -> None:
    fleet.start("chat.0")
    fleet.start("slow.0", ignore_sigterm=True)
    for replica_id in ("chat.0", "slow.0"):
        await fleet.event(ev.ReplicaReady, replica_id)
    assert await fleet.supervisor.close(grace_s=2) == ()
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
    async with asyncio.timeout(DEADLINE_S):
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
