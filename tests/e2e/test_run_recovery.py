"""A replica dies under load: clients must not notice, and it must come back by itself."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import psutil
import pytest

REQUEST = {
    "model": "chat",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 24,
}


def restarts(running: Any, replica: str = "chat.0") -> int:
    found = {one["id"]: one["restarts"] for one in running.status()["models"]["chat"]["replicas"]}
    return int(found[replica])


async def ask(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.post(f"{url}/v1/chat/completions", json=REQUEST) as answer:
        return answer.status, await answer.text()


async def ask_while(url: str, users: int, disturb: Callable[[], None]) -> list[tuple[int, str]]:
    """`users` clients ask three times each; `disturb` is called while the first are under way."""
    async with aiohttp.ClientSession() as session:

        async def user() -> list[tuple[int, str]]:
            return [await ask(session, url) for _ in range(3)]

        clients = [asyncio.create_task(user()) for _ in range(users)]
        # All requests are in flight when the metrics of the engines say so.
        await asyncio.sleep(0)
        await wait_running(session, url, users)
        disturb()
        return [answer for client in clients for answer in await client]


async def wait_running(session: aiohttp.ClientSession, url: str, users: int) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + 20
    while loop.time() < give_up_at:
        async with session.get(f"{url}/health") as answer:
            health = await answer.json()
        if health["controller"]["requests_in_flight"] >= users:
            return
    raise AssertionError("the requests never were in flight together")


def test_a_kill_under_load_is_not_seen_by_clients_and_the_replica_returns(
    run_muai: Any, simulated_config: Any, eventually: Any
) -> None:
    running = run_muai(simulated_config(replicas=2, tokens_per_second=40))
    running.wait_ready("chat")
    eventually("both ready", lambda: running.status()["models"]["chat"]["ready"] == 2)
    victim = running.engine_of("chat.0")

    answers = asyncio.run(ask_while(running.url, 8, lambda: os.killpg(victim.pid, signal.SIGKILL)))

    assert [status for status, _ in answers] == [200] * 24
    eventually("chat.0's loss is noticed", lambda: restarts(running) == 1)
    eventually("chat.0 back", lambda: running.status()["models"]["chat"]["ready"] == 2)
    assert restarts(running) == 1
    assert "killed by SIGKILL" in running.text()
    assert not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"exit_status": 0}, "exited with status 0"),
        ({"exit_status": 1}, "exited with status 1"),
        ({"exit_signal": "SIGSEGV"}, "killed by SIGSEGV"),
    ],
)
def test_every_exit_is_a_failure_while_the_replica_is_desired(
    run_muai: Any, simulated_config: Any, eventually: Any, fault: dict[str, Any], words: str
) -> None:
    faults = {"exit_after_requests": 1, "first_epoch_only": True, **fault}
    running = run_muai(simulated_config(faults=faults))
    running.wait_ready("chat")

    async def twice() -> list[int]:
        # The first is answered; the second ends the engine and is answered by its successor.
        async with aiohttp.ClientSession() as session:
            return [(await ask(session, running.url))[0] for _ in range(2)]

    assert asyncio.run(twice()) == [200, 200]
    eventually("it is back", lambda: restarts(running) == 1)
    running.wait_ready("chat")
    assert words in running.text()


def test_a_start_that_fails_is_told_with_its_log_and_tried_again(
    run_muai: Any, simulated_config: Any, eventually: Any
) -> None:
    faults = {"start_error": "no such weights", "first_epoch_only": True}
    running = run_muai(simulated_config(faults=faults))
    running.wait_ready("chat")
    assert "no such weights" in running.text()
    assert restarts(running) == 1


def test_a_killed_controller_leaves_nothing_that_its_successor_does_not_end(
    run_muai: Any, simulated_config: Any, eventually: Any
) -> None:
    config = simulated_config()
    first = run_muai(config)
    first.wait_ready("chat")
    first.signal(signal.SIGKILL)
    first.wait_end()
    second = run_muai(config)
    second.wait_ready("chat")
    leaders = {process.pid for process in second.engines()}
    assert {psutil.Process(pid).ppid() for pid in leaders} == {second.process.pid}


def test_the_journal_of_a_run_with_a_failure_replays_to_the_same_digest(
    run_muai: Any, run_command: Any, simulated_config: Any, eventually: Any
) -> None:
    running = run_muai(simulated_config(replicas=2))
    running.wait_ready("chat")
    os.killpg(running.engine_of("chat.1").pid, signal.SIGKILL)
    eventually("it is back", lambda: restarts(running, "chat.1") == 1)
    running.signal(signal.SIGTERM)
    assert running.wait_end() == 0

    replayed = run_command("replay", "--json", str(running.state_dir / "journal.jsonl"))

    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    found = json.loads(replayed.stdout)
    assert found["ended"]
    assert found["digests_verified"] >= 1
    assert found["difference"] is None
