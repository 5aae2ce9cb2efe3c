"""Carrying out `CheckDevice`: a device's self-test runs as a short-lived process of its own.

The process gets what an engine on that device would get, dies with the controller as an engine
does, and carries a replica's marker, so that its memory counts as ours and an orphan is reclaimed.
What it found is told only once the process is gone. Only what it says itself counts against a
device: a self-test that hangs, crashes or cannot be started has proven nothing.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

import msgspec
from msgspec import structs

from muai_core.control.actions import CheckDevice
from muai_core.control.events import DeviceChecked, Event
from muai_core.model.device import Device
from muai_core.model.health import Finding
from muai_core.planning.wording import described, gib, one_line
from muai_core.plugin.device_source import DeviceSource, SelfTest, SelfTestResult
from muai_core.runtime.captured_output import CapturedOutput
from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.environment import compose_environment, device_environment
from muai_core.runtime.orphans import Marker
from muai_core.runtime.process import Exit, ReplicaProcess
from muai_core.runtime.spawning import SpawnError

_log = logging.getLogger(__name__)

_WORDS_LIMIT_CHARACTERS = 500
_KIND_LIMIT_CHARACTERS = 100
_FIRST_REAP_S = 1.0
_LAST_REAP_S = 30.0


class NothingProven(Exception):
    """A self-test said nothing about its device; the text says why."""


class _StrictResult(SelfTestResult, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stray JSON object must not pass for a passed self-test."""


class SelfTests:
    """Runs self-tests; use it from the event loop of the main thread only.

    `emit` gets exactly one `DeviceChecked` for each `CheckDevice`. It must not raise or block.
    """

    def __init__(
        self,
        sources: Mapping[str, DeviceSource],
        instance_id: str,
        emit: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        """`sources` by name; `clock` is the one that deadlines are on, in seconds."""
        self._sources = sources
        self._instance_id = instance_id
        self._emit = emit
        self._clock = clock
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        #: UUID → what is left of an earlier self-test, in words.
        self._undead: dict[str, tuple[str, ...]] = {}
        self._reapers: set[asyncio.Task[None]] = set()
        #: UUIDs of devices that their source was asked about and has not answered yet.
        self._unanswered: set[str] = set()
        self._closed = False

    def start(self, action: CheckDevice) -> None:
        """Begin the self-test; returns at once. One that runs already is not begun again."""
        key = (action.device.uuid, action.check)
        if key in self._running:
            return
        if self._closed:
            self._tell(action, SelfTestResult(inconclusive="the controller is ending"))
            return
        task = asyncio.ensure_future(self._carry_out(action))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key))

    async def close(self) -> tuple[str, ...]:
        """Kill all self-tests and wait until they are gone; what is left then, in words."""
        self._closed = True
        tasks = [*self._running.values(), *self._reapers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A self-test that was killed just now may have left a reaper of its own.
        for reaper in self._reapers:
            reaper.cancel()
        await asyncio.gather(*self._reapers, return_exceptions=True)
        return tuple(words for left in self._undead.values() for words in left)

    async def _carry_out(self, action: CheckDevice) -> None:
        try:
            result = await self._tested(action)
        except NothingProven as why:
            result = SelfTestResult(inconclusive=str(why))
        except asyncio.CancelledError:
            result = SelfTestResult(inconclusive="the controller is ending")
        except Exception as error:  # noqa: BLE001 - exactly one outcome, whatever happens
            _log.exception("the self-test of %s failed", action.device.uuid)
            result = SelfTestResult(inconclusive=f"it could not be run: {described(error)}")
        self._tell(action, result)

    def _tell(self, action: CheckDevice, result: SelfTestResult) -> None:
        tidy = tidied(result)
        self._emit(
            DeviceChecked(
                uuid=action.device.uuid,
                check=action.check,
                finding=tidy.finding,
                inconclusive=tidy.inconclusive,
                detail=tidy.detail,
            )
        )

    async def _tested(self, action: CheckDevice) -> SelfTestResult:
        uuid = action.device.uuid
        if uuid in self._undead:
            left = "; ".join(self._undead[uuid])
            raise NothingProven(f"an earlier self-test of this device does not die: {left}")
        if self._left_s(action) <= 0:
            raise NothingProven("its deadline had passed before it could begin")
        spec = await self._ask_source(action)
        if spec.memory_bytes > action.memory_free_bytes:
            raise NothingProven(
                f"it takes {gib(spec.memory_bytes)} of the device's memory, "
                f"{gib(action.memory_free_bytes)} are free"
            )
        timeout_s = min(spec.timeout_s, self._left_s(action))
        with CapturedOutput() as output:
            process = self._spawn(action, spec, output)
            try:
                ended = await _watch(process, output, timeout_s)
            finally:
                await self._end(uuid, process)
            return read_result(output.stdout(), output.stderr(), ended)

    async def _ask_source(self, action: CheckDevice) -> SelfTest:
        name, device = action.source, action.device
        source = self._sources.get(name)
        if source is None:
            raise NothingProven(f"there is no device source {name!r}")
        if device.uuid in self._unanswered:
            raise NothingProven(f"device source {name} still owes an answer to the last request")
        self._unanswered.add(device.uuid)

        def ask() -> object:
            try:
                return source.self_test(device)
            finally:
                self._unanswered.discard(device.uuid)

        left_s = self._left_s(action)
        try:
            async with asyncio.timeout(left_s):
                answer = await in_daemon_thread(ask, f"muai-self-test-{name}")
            if answer is None:
                raise NothingProven(f"device source {name} has no self-test for this device")
            return well_formed(answer)
        except TimeoutError:
            words = f"device source {name} did not say within {_seconds(left_s)} how to test it"
            raise NothingProven(words) from None
        except NothingProven:
            raise
        except Exception as error:
            words = f"device source {name} could not say how to test it: {described(error)}"
            raise NothingProven(words) from error

    def _spawn(self, action: CheckDevice, spec: SelfTest, output: CapturedOutput) -> ReplicaProcess:
        device = action.device
        try:
            return ReplicaProcess.spawn(
                spec.argv,
                env=self_test_environment(device, spec),
                cwd=None,
                log_path=output.stderr_path,
                marker=Marker(self._instance_id, f"self-test/{device.uuid}", action.check).text,
                stdout_fd=output.stdout_fd,
            )
        except SpawnError as error:
            raise NothingProven(str(error)) from error
        finally:
            output.close_writers()

    async def _end(self, uuid: str, process: ReplicaProcess) -> None:
        """Kill what is left. What does not die is told, and reaped when it does."""
        stopping = asyncio.ensure_future(process.stop(grace_s=0))
        try:
            release = await asyncio.shield(stopping)
        except asyncio.CancelledError:
            # The controller ends, and takes the process with it.
            release = await stopping
        if release.proven:
            return
        self._undead[uuid] = release.survivors
        reaper = asyncio.ensure_future(self._reap(uuid, process))
        self._reapers.add(reaper)
        reaper.add_done_callback(self._reapers.discard)
        raise NothingProven(f"its process does not die: {'; '.join(release.survivors)}")

    async def _reap(self, uuid: str, process: ReplicaProcess) -> None:
        retry_s = _FIRST_REAP_S
        while uuid in self._undead:
            _log.error("the self-test of %s does not die: %s", uuid, "; ".join(self._undead[uuid]))
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _LAST_REAP_S)
            release = await process.stop(grace_s=0)
            if release.proven:
                del self._undead[uuid]

    def _left_s(self, action: CheckDevice) -> float:
        return max(0.0, action.deadline_at_s - self._clock())


async def _watch(process: ReplicaProcess, output: CapturedOutput, timeout_s: float) -> Exit:
    """How the process ended. Raises NothingProven when it has to be ended."""
    flooded = asyncio.ensure_future(output.flooded.wait())
    exited = asyncio.ensure_future(process.wait_exit())
    try:
        async with asyncio.timeout(timeout_s):
            await process.executed()
            await asyncio.wait({flooded, exited}, return_when=asyncio.FIRST_COMPLETED)
    except SpawnError as error:
        raise NothingProven(str(error)) from error
    except TimeoutError:
        raise NothingProven(
            f"it was not done after {_seconds(timeout_s)} and was killed; a busy device or a slow "
            "driver can cause that as well as a broken device"
        ) from None
    finally:
        flooded.cancel()
        exited.cancel()
    if process.exit is None:
        raise NothingProven(f"it printed more than {gib(output.limit_bytes)} and was killed")
    return process.exit


def read_result(stdout: str, stderr: str, ended: Exit) -> SelfTestResult:
    """What a self-test that ended by itself says: the last line on its stdout.

    Raises NothingProven when that is not a result, and when a process that calls the device well
    did not itself end well.
    """
    # Not splitlines: JSON may have other separators of lines in its texts.
    last_line = stdout.strip().rpartition("\n")[2]
    if not last_line:
        last_words = (stderr.strip().splitlines() or ["without a word"])[-1]
        ending = f"was {ended.words}" if ended.signal is not None else ended.words
        raise NothingProven(f"it {ending} and printed no result: {last_words}")
    try:
        result = msgspec.json.decode(last_line, type=_StrictResult)
    except (msgspec.MsgspecError, RecursionError) as error:
        text = one_line(last_line, 100)
        raise NothingProven(f"its last line is not a result ({error}): {text}") from error
    if result.finding is not None and result.inconclusive is not None:
        raise NothingProven("it has a finding and calls itself inconclusive")
    if result.finding is None and result.inconclusive is None and ended.status != 0:
        ending = f"was {ended.words}" if ended.signal is not None else ended.words
        raise NothingProven(f"it says that it passed, but {ending}")
    return result


def well_formed(answer: object) -> SelfTest:
    """What a plugin answered, every field of the right type. Raises TypeError and ValueError."""
    if not isinstance(answer, SelfTest):
        raise TypeError(f"self_test() returned {type(answer).__name__}, not SelfTest")
    spec = msgspec.convert(structs.asdict(answer), SelfTest)
    if not spec.timeout_s > 0:
        raise ValueError(f"SelfTest.timeout_s is {spec.timeout_s}; it must be more than 0")
    return spec


def self_test_environment(device: Device, spec: SelfTest) -> dict[str, str]:
    """What an engine on the device would get, and what the self-test asks for."""
    return compose_environment(os.environ, {**device_environment((device,)), **spec.env})


def tidied(result: SelfTestResult) -> SelfTestResult:
    """The same in lines that can be shown, and in labels that do not grow."""
    inconclusive = result.inconclusive
    return SelfTestResult(
        finding=None if result.finding is None else _tidied_finding(result.finding),
        inconclusive=None if inconclusive is None else _line(inconclusive) or "no reason given",
        detail=_line(result.detail),
    )


def _tidied_finding(finding: Finding) -> Finding:
    return structs.replace(
        finding,
        kind=one_line(finding.kind, _KIND_LIMIT_CHARACTERS) or "self_test",
        reason=_line(finding.reason) or "the self-test failed",
        advice=_line(finding.advice),
    )


def _seconds(duration_s: float) -> str:
    return f"{round(duration_s, 1):g} s"


def _line(text: str) -> str:
    return one_line(text, _WORDS_LIMIT_CHARACTERS)
