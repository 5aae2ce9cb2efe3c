"""Starts that fail: the cause names the stage and what was waited for, and nothing is left."""

import asyncio
from typing import Any

import pytest
from replica_programs import is_alive, until
from supervised_fleet import Fleet, forever, returning

from muai_core.control import events as ev
from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime import replica_life


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
    fleet.start(health=["loading", "exit"])
    assert (await fleet.failure()).cause.startswith("exited with status 7 in stage load, after ")


async def test_a_daemon_that_leaves_us_its_parent_is_a_failed_start_and_is_killed(
    fleet: Fleet,
) -> None:
    fleet.start(daemon=True)
    failed = await fleet.failure()
    assert failed.cause.startswith("exited with status 0 in stage ")
    daemon = fleet.pid_in_log("daemon")
    await until(lambda: not is_alive(daemon))


@pytest.mark.parametrize(
    ("stage", "behaviour", "words"),
    [
        ("spawn", {"run": "time.sleep(600)"}, "nothing listens on 127.0.0.1:{port}"),
        (
            "load",
            {"health": ["loading weights 40 %"], "ignore_sigterm": True},
            "GET /health answers 503: loading weights 40 %",
        ),
        (
            "load",
            {"raw": "HTTP/1.1 500 Oops\r\n\r\n" + "x" * 100_000},
            "GET /health answers 500",
        ),
        ("load", {"raw": "\x00\xff garbage\r\n\r\n"}, "GET /health: no HTTP answer ("),
        (
            "load",
            {"raw": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1", "linger": 600},
            "GET /health: no complete answer within 0.1 s",
        ),
        ("ready", {"name": "other"}, "GET /v1/models lists other, not chat"),
    ],
    ids=["never listens", "loads forever", "huge errors", "garbage", "slow loris", "other model"],
)
async def test_each_stage_has_its_deadline(
    fleet: Fleet,
    stage: str,
    behaviour: dict[str, Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_life, "_FAILED_START_GRACE_S", 0.1)
    # On a busy machine an engine may need longer to get as far as the test wants it.
    for epoch, deadline_s in enumerate((0.5, 2, 8, 32), start=1):
        await fleet.supervisor.close()
        fleet.make_supervisor(
            timeout_s=0.1 if "linger" in behaviour else 5, **{f"{stage}_s": deadline_s}
        )
        launch = fleet.start(epoch=epoch, **behaviour)
        failed = await fleet.failure(epoch=epoch)
        missed, _, seen = failed.cause.partition(": ")
        assert missed == f"stage {stage} took longer than {deadline_s:g} s"
        if seen.startswith(words.format(port=launch.port)) and failed.log_tail == "engine up":
            return
    raise AssertionError(failed)


async def test_an_engine_that_listens_late_has_the_load_deadline_for_it(fleet: Fleet) -> None:
    fleet.make_supervisor(load_s=1)
    launch = fleet.launch({"run": "time.sleep(600)"}, listens_while_loading=False)
    fleet.start_prepared("chat.0", 1, lambda: returning(launch))
    assert (await fleet.failure()).cause == (
        f"stage load took longer than 1 s: GET /health: nothing listens on 127.0.0.1:{launch.port}"
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
