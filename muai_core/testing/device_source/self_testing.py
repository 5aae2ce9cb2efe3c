"""Clauses on the self-tests of a device source's devices."""

import os
import select
import subprocess
import tempfile
import time
import uuid
from typing import IO

from msgspec import Struct

from muai_core.model.device import Device
from muai_core.planning.wording import described
from muai_core.plugin.device_source import SelfTest
from muai_core.runtime.process import Exit
from muai_core.runtime.process_table import (
    MARKER_VARIABLE,
    Process,
    find_members,
    kill_exactly,
    read_process,
    read_processes,
)
from muai_core.runtime.self_tests import NothingProven, read_result, self_test_environment
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.device_source.subject import DeviceSourceSubject

_STRANGER = Device(
    uuid="GPU-that-nobody-has",
    node="nowhere",
    index=999,
    kind="gpu",
    platform="cuda",
    name="A device of another source",
    memory_total_bytes=1,
)
_OVERLAPS = 5
#: Helpers that end a moment later are no leftovers.
_SETTLE_S = 0.5
_POLL_S = 0.02


@clause("D40", kind="device source", title="it says how to test a device, or that it cannot")
def _(subject: DeviceSourceSubject) -> None:
    for device in (*_devices(subject), _STRANGER):
        spec = subject.ask_self_test(device)
        if spec is not None and spec.memory_bytes < 0:
            raise ClauseFailure(f"the self-test of {device.uuid} takes {spec.memory_bytes} bytes")


@clause("D41", kind="device source", title="it can be asked for a self-test while it observes")
def _(subject: DeviceSourceSubject) -> None:
    device = next(iter(_devices(subject)), _STRANGER)
    subject.opened()
    limit_s = subject.limits.observe_s
    for _ in range(_OVERLAPS):
        look = subject.begin_look()
        try:
            while look.wait(0) is None:
                subject.ask_self_test(device)
        finally:
            attempt = subject.part.finish(look, limit_s)
        if attempt.error is not None:
            raise ClauseFailure(
                f"observe() raises {described(attempt.error)} while a self-test is asked for"
            )


@clause("D42", kind="device source", title="a self-test is done in time and prints its result")
def _(subject: DeviceSourceSubject) -> None:
    ran = _ran(subject)
    if ran.end is None:
        raise ClauseFailure(f"the self-test was not done after {ran.spec.timeout_s:g} s")
    try:
        read_result(ran.stdout, ran.stderr, ran.end)
    except NothingProven as why:
        raise ClauseFailure(f"the self-test proves nothing: {why}") from why


@clause("D43", kind="device source", title="a self-test leaves no process behind")
def _(subject: DeviceSourceSubject) -> None:
    if left := _ran(subject).left:
        raise ClauseFailure(f"the self-test leaves {'; '.join(left)}")


class Ran(Struct, frozen=True, kw_only=True):
    """One self-test that was run."""

    spec: SelfTest
    #: None: it had to be ended.
    end: Exit | None
    stdout: str
    stderr: str
    left: tuple[str, ...]


def _ran(subject: DeviceSourceSubject) -> Ran:
    """The self-test of one device with room for it. Raises ClauseSkipped without one."""
    inventory = subject.inventories()[0][1]
    free = {reading.uuid: reading.memory_free_bytes for reading in inventory.readings}
    specs = [(device, subject.ask_self_test(device)) for device in subject.devices()]
    for device, spec in specs:
        room = free.get(device.uuid)
        if spec is not None and (room is None or room >= spec.memory_bytes):
            return _run(device, spec)
    if any(spec is not None for _, spec in specs):
        raise ClauseSkipped("no device has enough free memory for its self-test")
    raise ClauseSkipped("it has no self-test for its devices")


def _run(device: Device, spec: SelfTest) -> Ran:
    marker = f"conformance/{os.getpid()}/{uuid.uuid4()}"
    environment = {**self_test_environment(device, spec), MARKER_VARIABLE: marker}
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                spec.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise ClauseFailure(f"the self-test cannot be started: {described(error)}") from error
        leader = read_process(process.pid)
        since_ticks = leader.start_ticks if leader is not None else 0
        left: list[Process] = []
        # Not reaped before all of it is gone: its pid names the session.
        done = _ended(process.pid, spec.timeout_s)
        try:
            if done:
                left = _left(process.pid, since_ticks, marker)
        finally:
            for one in _members(process.pid, since_ticks, marker):
                kill_exactly(one.identity)
            status = process.wait()
        end = Exit(status=status) if status >= 0 else Exit(signal=-status)
        return Ran(
            spec=spec,
            end=end if done else None,
            stdout=_text(stdout),
            stderr=_text(stderr),
            left=tuple(one.words for one in left),
        )


def _ended(pid: int, timeout_s: float) -> bool:
    """Whether the process ends by itself by then."""
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def _left(session: int, since_ticks: int, marker: str) -> list[Process]:
    give_up_at_s = time.monotonic() + _SETTLE_S
    while left := _members(session, since_ticks, marker):
        if time.monotonic() > give_up_at_s:
            return left
        time.sleep(_POLL_S)
    return []


def _members(session: int, since_ticks: int, marker: str) -> list[Process]:
    found = find_members(
        read_processes(),
        marker=marker,
        since_ticks=since_ticks,
        session=session,
        known=frozenset(),
    )
    return [process for process in found if process.alive]


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _devices(subject: DeviceSourceSubject) -> tuple[Device, ...]:
    return subject.inventories()[0][1].devices
