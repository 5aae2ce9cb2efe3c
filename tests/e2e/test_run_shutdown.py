"""Stopping: requests in flight finish, no process is left, and a second signal does not wait."""

import signal
import threading
from typing import Any

import openai
import pytest


def client_of(running: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_stream_finish_and_leaves_no_process(
    run_muai: Any, simulated_config: Any, number: signal.Signals
) -> None:
    running = run_muai(simulated_config(tokens_per_second=40))
    running.wait_ready("chat")
    begun = threading.Event()
    received: list[str] = []

    def read() -> None:
        stream = client_of(running).chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=40,
            stream=True,
        )
        for chunk in stream:
            received.append(chunk.choices[0].finish_reason or "")
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(20)
    running.signal(number)

    assert running.wait_end() == 0
    reader.join(20)
    assert received[-1] == "length"
    assert running.engines() == []


def test_sigint_stops_what_a_script_started_in_the_background(
    run_muai: Any, simulated_config: Any
) -> None:
    # The shell starts `muai run ... &` in a script with SIGINT ignored; children inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        running = run_muai(simulated_config())
    finally:
        signal.signal(signal.SIGINT, before)
    running.wait_ready("chat")
    running.signal(signal.SIGINT)

    assert running.wait_end() == 0
    assert running.engines() == []


def test_a_second_signal_kills_at_once(
    run_muai: Any, simulated_config: Any, eventually: Any
) -> None:
    config = simulated_config(faults={"refuse_to_die": True})
    config["recovery"]["stop_grace_s"] = 600
    running = run_muai(config)
    running.wait_ready("chat")
    running.signal(signal.SIGINT)
    eventually("it is stopping", lambda: "stopping" in running.text())
    running.signal(signal.SIGINT)

    assert running.wait_end() == 128 + signal.SIGINT
    assert running.engines() == []


def test_a_signal_during_the_start_stops_it(run_muai: Any, simulated_config: Any) -> None:
    running = run_muai(simulated_config(load_s=600))
    running.engine_of("chat.0")
    running.signal(signal.SIGTERM)

    assert running.wait_end() == 0
    assert running.engines() == []


def test_an_engine_that_refuses_to_die_is_killed(run_muai: Any, simulated_config: Any) -> None:
    config = simulated_config(faults={"refuse_to_die": True})
    config["recovery"]["stop_grace_s"] = 0.5
    running = run_muai(config)
    running.wait_ready("chat")
    running.signal(signal.SIGTERM)

    assert running.wait_end() == 0
    assert running.engines() == []


def test_muai_stop_stops_a_running_controller(
    run_muai: Any, run_command: Any, simulated_config: Any
) -> None:
    running = run_muai(simulated_config())
    running.wait_ready("chat")
    done = run_command("stop", "--state-dir", str(running.state_dir))

    assert done.returncode == 0, done.stderr
    assert running.wait_end() == 0
    assert running.engines() == []


def test_muai_stop_now_kills_and_says_so(
    run_muai: Any, run_command: Any, simulated_config: Any
) -> None:
    config = simulated_config(faults={"refuse_to_die": True})
    config["recovery"]["stop_grace_s"] = 600
    running = run_muai(config)
    running.wait_ready("chat")
    done = run_command("stop", "--now", "--state-dir", str(running.state_dir))

    assert done.returncode == 0, done.stderr
    running.wait_end()
    assert running.text().count("killing every engine") == 1
    assert "may finish" not in running.text()
    assert running.engines() == []
