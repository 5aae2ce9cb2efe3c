"""Faults: each does what it says, and only in the incarnations that it is meant for."""

import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from muai_simulated.config import FaultOptions

STREAM = {"model": "m", "prompt": "hello", "max_tokens": 10, "stream": True}
CONNECTION_ERRORS = (openai.APIConnectionError, httpx.TransportError)


def test_a_start_error_ends_loading_with_its_text_last(
    start: Callable[..., Any], reading_of: Callable[[int], Any]
) -> None:
    replica = start(ready=False, faults={"start_error": "CUDA out of memory: 3 GiB missing"})
    assert replica.process.wait(30) == 1
    last = replica.log.read_text().strip().splitlines()[-1]
    assert last.endswith("CUDA out of memory: 3 GiB missing")
    assert reading_of(0).memory_used_bytes == 0


def test_a_slow_start_loads_longer(
    start: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    replica = start(ready=False, faults={"slow_start_s": 1.0})
    assert eventually(replica.health, "the server answers").status_code == 503
    eventually(replica.is_ready, "it gets ready nevertheless")


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ({"exit_status": 0}, 0),
        ({}, 1),
        ({"exit_status": 77}, 77),
        ({"exit_signal": "SIGSEGV"}, -signal.SIGSEGV),
        ({"exit_signal": "SIGKILL"}, -signal.SIGKILL),
    ],
)
def test_it_exits_when_the_next_request_comes(
    start: Callable[..., Any], faults: dict[str, Any], status: int
) -> None:
    replica = start(faults={"exit_after_requests": 2, **faults})
    replica.ask()
    replica.ask()
    with pytest.raises(CONNECTION_ERRORS):
        replica.ask()
    assert replica.process.wait(30) == status


def test_it_exits_in_the_middle_of_a_stream(start: Callable[..., Any]) -> None:
    replica = start(faults={"exit_after_tokens": 5})
    assert len(pieces_of(replica)) == 5
    assert replica.process.wait(30) == 1


def test_it_hangs_while_health_says_200(
    start: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    replica = start(faults={"hang_after_requests": 1}, tokens_per_second=20)
    impatient = replica.client.with_options(timeout=0.3)
    with replica.client.completions.create(
        model="m", prompt="x", max_tokens=4000, stream=True
    ) as stream:
        next(iter(stream))
        with pytest.raises(openai.APITimeoutError):
            impatient.completions.create(model="m", prompt="y", max_tokens=1)
        eventually(lambda: replica.progress()["requests_running"] == 1, "the client left")
        stuck = replica.progress()
        began_s = time.monotonic()
        while time.monotonic() - began_s < 0.3:
            assert replica.progress() == stuck
            assert replica.is_ready()


def test_a_slow_engine_is_slower(start: Callable[..., Any]) -> None:
    replica = start(faults={"slow_factor": 10}, tokens_per_second=200)
    began_s = time.monotonic()
    replica.ask(max_tokens=11)
    assert time.monotonic() - began_s >= 10 * 10 / 200


def test_a_stream_is_cut(start: Callable[..., Any]) -> None:
    replica = start(faults={"cut_stream_after_tokens": 3})
    assert len(pieces_of(replica)) == 3
    with pytest.raises(CONNECTION_ERRORS):
        replica.ask()
    assert replica.is_ready()
    assert replica.progress()["requests_running"] == 0


def test_a_stream_is_garbled_but_well_framed(start: Callable[..., Any]) -> None:
    replica = start(faults={"garble_stream_after_tokens": 3})
    with httpx.stream("POST", f"{replica.url}/v1/completions", json=STREAM) as response:
        body = response.read()
    assert body.count(b'"text":') == 4  # three words, and the finish reason without a word
    assert body.count(b"\xff\xfe") == 7
    with pytest.raises(ValueError, match=r"codec|JSON|Expecting|control character"):
        for _ in replica.client.completions.create(**STREAM):  # type: ignore[call-overload]
            pass


def test_it_refuses_to_die(start: Callable[..., Any]) -> None:
    replica = start(faults={"refuse_to_die": True})
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        replica.process.send_signal(number)
        assert replica.ask()
    replica.process.send_signal(signal.SIGKILL)
    assert replica.process.wait(30) == -signal.SIGKILL


def test_faults_spare_the_second_incarnation_when_told_so(start: Callable[..., Any]) -> None:
    faults = {"exit_after_requests": 0, "first_epoch_only": True}
    first, second = start(faults=faults, epoch=1), start((1,), faults=faults, epoch=2)
    with pytest.raises(CONNECTION_ERRORS):
        first.ask()
    assert first.process.wait(30) == 1
    assert second.ask()


@pytest.mark.parametrize(
    ("only", "replica_id", "epoch", "hit"),
    [
        ({}, "m.0", 7, True),
        ({"first_epoch_only": True}, "m.0", 1, True),
        ({"first_epoch_only": True}, "m.0", 2, False),
        ({"only_epochs": [2, 3]}, "m.0", 1, False),
        ({"only_epochs": [2, 3]}, "m.0", 3, True),
        ({"only_replicas": ["m.1"]}, "m.0", 1, False),
        ({"only_replicas": ["m.1"]}, "m.1", 4, True),
        ({"only_replicas": ["m.1"], "first_epoch_only": True}, "m.1", 4, False),
    ],
)
def test_faults_hit_only_whom_they_are_meant_for(
    only: dict[str, Any], replica_id: str, epoch: int, hit: bool
) -> None:
    assert FaultOptions.model_validate(only).hit(replica_id, epoch) is hit


def pieces_of(replica: Any) -> list[str]:
    """The pieces of a stream that must break."""
    pieces = []
    try:
        for chunk in replica.client.completions.create(**STREAM):
            pieces.append(chunk.choices[0].text)
    except CONNECTION_ERRORS:
        return pieces
    pytest.fail("the stream ended in order")
