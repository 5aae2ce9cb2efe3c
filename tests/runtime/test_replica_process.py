"""Replicas' processes: what they get, what cannot be started, and how their end is noticed."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import uvloop
from replica_programs import DEADLINE_S, SLEEP, Programs

from muai_core.runtime import process as process_module
from muai_core.runtime.process import Exit
from muai_core.runtime.spawning import SpawnError

# What the engine gets


async def test_the_engine_gets_exactly_its_environment_and_the_marker(programs: Programs) -> None:
    argv = ["/usr/bin/env", "-0"]
    process = programs.spawn(argv, env={"A": "1", "ODD": "x=y ü\n2"}, marker="box/chat-0/7")
    await process.wait_exit(DEADLINE_S)
    entries = set(filter(None, programs.log.read_bytes().decode().split("\0")))
    assert entries == {"A=1", "ODD=x=y ü\n2", "MUAI_REPLICA=box/chat-0/7"}
    assert (await process.stop(grace_s=0)).proven


async def test_the_engine_leads_its_own_session_reads_nothing_and_inherits_no_file(
    programs: Programs,
) -> None:
    process = programs.start(
        """
        import os, sys
        print("session", os.getsid(0) == os.getpid() == os.getpgid(0))
        print("input", repr(sys.stdin.read()))
        print("files", sorted(os.listdir("/proc/self/fd"), key=int)[:-1])
        print("to stderr", file=sys.stderr)
        print("directory", os.getcwd())
        """,
        cwd=programs.directory,
    )
    assert await process.wait_exit(DEADLINE_S) == Exit(status=0)
    log = programs.log.read_text()
    assert "session True" in log
    assert "input ''" in log
    assert "files ['0', '1', '2']" in log
    assert "to stderr" in log
    assert f"directory {programs.directory}" in log
    assert programs.log.stat().st_mode & 0o777 == 0o600
    assert (await process.stop(grace_s=0)).proven


async def test_the_log_is_appended_to(programs: Programs) -> None:
    for word in ("first", "second"):
        process = programs.start(f"print({word!r})")
        await process.wait_exit(DEADLINE_S)
        await process.stop(grace_s=0)
    assert programs.log.read_text() == "first\nsecond\n"


async def test_signals_that_the_controller_ignores_or_blocks_reach_the_engine(
    programs: Programs,
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = programs.start(SLEEP)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, before)
    await programs.log_says("up")
    assert (await process.stop(grace_s=DEADLINE_S)).proven
    assert process.exit == Exit(signal=signal.SIGTERM)


# Programs that cannot be started


async def failed_start(programs: Programs, argv: list[str], **options: object) -> str:
    async def start() -> None:
        await asyncio.wait_for(programs.spawn(argv, **options).executed(), DEADLINE_S)

    with pytest.raises(SpawnError) as caught:
        await start()
    for process in programs.started:
        assert await process.wait_exit(DEADLINE_S) == Exit(status=127)
        assert (await process.stop(grace_s=0)).proven
    return str(caught.value)


async def test_a_missing_program_is_a_typed_error(programs: Programs) -> None:
    words = await failed_start(programs, ["/nowhere/python", "-m", "vllm"])
    assert words == "cannot run /nowhere/python: No such file or directory"


async def test_a_missing_interpreter_of_a_script_is_named(programs: Programs) -> None:
    script = programs.directory / "engine"
    script.write_text("#!/nowhere/python3\n")
    script.chmod(0o755)
    words = await failed_start(programs, [str(script)])
    assert "No such file or directory" in words
    assert "#!/nowhere/python3" in words


async def test_a_file_without_permission_is_a_typed_error(programs: Programs) -> None:
    script = programs.directory / "engine"
    script.write_text("#!/bin/sh\n")
    assert "Permission denied" in await failed_start(programs, [str(script)])


async def test_a_missing_directory_is_a_typed_error(programs: Programs) -> None:
    words = await failed_start(programs, ["/bin/true"], cwd=Path("/nowhere"))
    assert "/nowhere" in words


@pytest.mark.parametrize("env", [{"A": "x\0y"}, {"A=B": "x"}, {"": "x"}, {"A": "\ud800"}])
async def test_an_impossible_environment_is_a_typed_error(
    programs: Programs, env: dict[str, str]
) -> None:
    assert "environment" in await failed_start(programs, ["/bin/true"], env=env)


async def test_an_unwritable_log_is_a_typed_error(programs: Programs) -> None:
    log = programs.directory / "file" / "replica.log"
    log.parent.write_text("not a directory")
    assert "cannot write the log" in await failed_start(programs, ["/bin/true"], log_path=log)


async def test_a_program_that_runs_is_reported_as_executed(programs: Programs) -> None:
    process = programs.start(SLEEP)
    await asyncio.wait_for(process.executed(), DEADLINE_S)
    assert (await process.stop(grace_s=0)).proven


async def test_spawning_on_another_thread_is_refused(programs: Programs) -> None:
    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(programs.start, SLEEP)


# The end is noticed


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "exited with status 0"),
        ("raise SystemExit(1)", "exited with status 1"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40"),
    ],
)
async def test_every_way_to_end_has_its_words(programs: Programs, source: str, words: str) -> None:
    process = programs.start(source)
    ended = await process.wait_exit(DEADLINE_S)
    assert ended is not None
    assert ended.words == words
    assert (await process.stop(grace_s=0)).proven


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("pidfd", [True, False])
def test_an_exit_is_noticed_without_polling(
    programs: Programs, loop_factory: object, pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise PermissionError

    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", refuse)

    looks = []

    def look(pid: int, flags: int) -> Exit:
        looks.append(flags)
        return read_exit(pid, flags)

    read_exit = process_module._read_exit
    monkeypatch.setattr(process_module, "_read_exit", look)

    async def kill_and_wait() -> None:
        process = programs.start(SLEEP)
        await programs.log_says("up")
        os.kill(process.pid, signal.SIGKILL)
        assert await process.wait_exit(DEADLINE_S) == Exit(signal=signal.SIGKILL)
        assert (await process.stop(grace_s=0)).proven

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(kill_and_wait())
    assert looks == [os.WNOHANG if pidfd else 0]


async def test_an_exit_status_that_somebody_else_collected_is_unknown(programs: Programs) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = programs.start("")
        ended = await process.wait_exit(DEADLINE_S)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert ended is not None
    assert ended.words == "exited, its status is unknown"
    assert (await process.stop(grace_s=0)).proven
