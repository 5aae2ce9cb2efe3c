"""status, explain, devices and stop with a real controller and simulated engines."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from muai_core.cli import controller_client as client

DEADLINE_S = 60.0
SECRET = 424242

CONFIG = """\
gateway: {{port: {port}}}
recovery: {{backoff_initial_s: 30}}
devices:
  sources: [simulated]
  observe_interval_s: 0.2
  simulated: {{gpus: 4, profile: A100-80GB, node: box}}
models:
  chat:
    source: simulated:chat
    engine: simulated
    tensor_parallel_size: 2
    engine_options: {{load_s: 0.1, memory_gib: 40, answer_tokens: {secret}}}
  broken:
    source: simulated:broken
    engine: simulated
    engine_options: {{load_s: 0.1, memory_gib: 10, faults: {{start_error: no such tensor}}}}
  wide:
    source: simulated:wide
    engine: simulated
    tensor_parallel_size: 8
    engine_options: {{memory_gib: 10}}
"""


class Controller:
    """One `muai run` in a process of its own, and the commands that talk to it."""

    def __init__(self, folder: Path, config: str) -> None:
        self.state_dir = folder / "state"
        self.file = folder / "muai.yaml"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.file.write_text(config.format(port=self.port, secret=SECRET))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "muai_core.cli.main", "run", str(self.file)],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "MUAI_STATE_DIR": str(self.state_dir)}

    def muai(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "muai_core.cli.main", *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def wait_settled(self) -> dict[str, Any]:
        """The first status in which `chat` serves and `broken` has failed."""

        def settled() -> Any:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(client.NoController):
                status = client.get_status(self.state_dir)
                models = status["models"]
                (broken,) = models["broken"]["replicas"] if models else [{"state": None}]
                if broken["state"] == "backoff" and models["chat"]["ready"]:
                    return status
            return None

        status: dict[str, Any] = wait_until(settled)
        return status


def wait_until(condition: Callable[[], Any]) -> Any:
    give_up_at_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up_at_s:
        if (value := condition()) is not None:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_S:g} s")


@contextlib.contextmanager
def started(folder: Path, config: str = CONFIG) -> Iterator[Controller]:
    controller = Controller(folder, config)
    try:
        yield controller
    finally:
        controller.process.terminate()
        try:
            controller.process.wait(30)
        except subprocess.TimeoutExpired:
            controller.process.kill()
            controller.process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A controller whose models have settled: one serves, one fails, one finds no devices."""
    with started(tmp_path_factory.mktemp("running")) as controller:
        controller.wait_settled()
        yield controller


def test_the_status_as_json(running: Controller) -> None:
    done = running.muai("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    status = json.loads(done.stdout)
    assert status["pid"] == running.process.pid
    assert status["state"] == "running"
    assert status["gateway"]["address"] == f"http://127.0.0.1:{running.port}"
    (chat,) = status["models"]["chat"]["replicas"]
    assert (chat["state"], chat["epoch"], chat["restarts"]) == ("ready", 1, 0)
    assert chat["endpoint"].startswith("http://127.0.0.1:")
    assert len(chat["devices"][0]) == 2
    os.kill(chat["pid"], 0)
    (broken,) = status["models"]["broken"]["replicas"]
    assert broken["last_failure"]["cause"]
    assert 0 < broken["retry_in_s"] <= 30
    assert broken["devices"] is None
    (wide,) = status["models"]["wide"]["replicas"]
    assert (wide["state"], status["models"]["wide"]["state"]) == ("pending", "pending")
    assert "needs 8 devices" in wide["blocked"]
    assert status["events_rejected"] == {}
    assert [source["name"] for source in status["device_sources"]] == ["simulated"]


def test_the_status_holds_no_engine_options(running: Controller) -> None:
    assert str(SECRET) not in running.muai("status", "--json").stdout
    assert str(SECRET) not in running.muai("explain", "chat", "--json").stdout


def test_the_status_for_people(running: Controller) -> None:
    done = running.muai("status")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "running for" in rows["muai"]
    assert "TP 2 x PP 1" in rows["chat"]
    assert "box/gpu0-1" in rows["chat.0"]
    assert "starts again in" in rows["broken.0"]
    assert "needs 8 devices" in rows["wide.0"]
    assert "healthy" in rows["box/gpu3"]


def test_the_json_keys_are_documented(running: Controller) -> None:
    document = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    status = json.loads(running.muai("status", "--json").stdout)
    model = status["models"]["chat"]
    for view, value in [
        ("status", status),
        ("status.models.NAME", model),
        ("status.models.NAME.replicas[]", model["replicas"][0]),
    ]:
        rows = document.partition(f"| key of `{view}` |")[2].partition("\n\n")[0]
        told = {
            cell.strip("` ")
            for row in rows.splitlines()[2:]
            for cell in row.split("|")[1].split(",")
        }
        assert set(value) == told, view


def test_a_failure_is_explained_with_the_end_of_its_log(running: Controller) -> None:
    done = running.muai("explain", "broken")
    assert (done.returncode, done.stderr) == (0, "")
    assert "last failure" in done.stdout
    assert "no such tensor" in done.stdout
    assert "starts again in" in done.stdout


def test_a_waiting_model_is_explained_device_by_device(running: Controller) -> None:
    told = json.loads(running.muai("explain", "wide", "--json").stdout)
    assert told["planned"] is False
    (replica,) = told["replicas"]
    assert [one["device"] is None for one in replica["considered"]] == [False] * 4 + [True]
    assert replica["reason"] == "shape"
    assert [one["verdict"] for one in told["alternatives"]] == ["refused"]
    assert told["proposed_moves"] == []
    *devices, of_fleet = replica["considered"]
    assert {one["verdict"] for one in devices} == {"eligible"}
    assert (of_fleet["verdict"], of_fleet["filter"]) == ("refused", "shape")


def test_an_unknown_model_is_told_which_there_are(running: Controller) -> None:
    done = running.muai("explain", "chart")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there are: chat, broken, wide" in done.stderr


def test_devices_are_those_of_the_controller(running: Controller) -> None:
    def observed_since_the_start() -> Any:
        devices = json.loads(running.muai("devices", "--json").stdout)
        return devices if devices[0]["memory_own_bytes"] else None

    devices = wait_until(observed_since_the_start)
    assert [device["node"] for device in devices] == ["box"] * 4
    assert devices[0]["memory_claimed_bytes"] == 40 * 1024**3
    assert devices[0]["memory_own_bytes"] == 40 * 1024**3


def test_the_replicas_on_a_device_are_told(running: Controller) -> None:
    devices = json.loads(running.muai("devices", "--json").stdout)
    assert [device["replicas"] for device in devices] == [["chat.0"], ["chat.0"], [], []]
    table = running.muai("devices").stdout
    assert "chat.0" in table.splitlines()[1]


def test_a_watch_sees_with_the_eyes_of_the_controller(running: Controller) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "muai_core.cli.main", "devices", "--watch", "--interval", "0.1"],
        env=running.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout is not None
        first = watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=DEADLINE_S)
    assert f"as the controller (pid {running.process.pid}) sees them" in first
    assert watch.returncode == 0


def test_the_topology_is_that_of_the_controller(running: Controller) -> None:
    done = running.muai("devices", "--topology")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("node box\n")
    assert json.loads(running.muai("devices", "--topology", "--json").stdout) == []


def test_the_endpoint_tells_the_health_of_the_devices(running: Controller) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/health", timeout=30) as answer:
        devices = json.load(answer)["devices"]
    assert [device["label"] for device in devices] == ["0", "1", "2", "3"]
    told = {(device["health"], device["health_reason"], device["advice"]) for device in devices}
    assert told == {("healthy", None, None)}


def test_a_device_is_reinstated(running: Controller) -> None:
    done = running.muai("reinstate", "box/gpu3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("box/gpu3 is reinstated; it was healthy.")
    told = json.loads(running.muai("reinstate", "3", "--json").stdout)
    assert (told["label"], told["health"]) == ("3", "healthy")


def test_an_unknown_device_is_not_reinstated(running: Controller) -> None:
    done = running.muai("reinstate", "gpu9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there are: box/gpu0, box/gpu1, box/gpu2, box/gpu3" in done.stderr


WOBBLY = """
from pathlib import Path
from muai_core import (
    Device, DeviceReading, DeviceSource, Finding, Health, Inventory, hookimpl
)

LOST = Finding(kind="xid", code=79, severity=Health.FAILED, recovery="reboot",
               reason="XID 79: fell off the bus", advice="reboot the node", clears="repaired")

class Wobbly(DeviceSource):
    name = "wobbly"
    def observe(self, now_s):
        device = Device(uuid="GPU-wobbly", node="box", index=0, kind="gpu", platform="simulated",
                        name="W", memory_total_bytes=2**30)
        lost = (Path(__file__).parent / "lost").exists()
        reading = DeviceReading(uuid=device.uuid, findings=(LOST,) if lost else ())
        return Inventory(source=self.name, observed_at_s=now_s, devices=(device,),
                         readings=(reading,))

@hookimpl
def muai_device_sources():
    return [Wobbly()]
"""
WOBBLY_CONFIG = """\
gateway: {{port: {port}}}
plugins: [wobbly.py]
devices: {{sources: [wobbly], observe_interval_s: 0.1}}
models: {{big: {{source: "simulated:big", engine: simulated, tensor_parallel_size: 8}}}}
"""


def test_a_failed_device_stays_failed_until_it_is_reinstated(tmp_path: Path) -> None:
    (tmp_path / "wobbly.py").write_text(WOBBLY)
    (tmp_path / "lost").touch()
    with started(tmp_path, WOBBLY_CONFIG) as controller:

        def device() -> Any:
            with contextlib.suppress(client.NoController):
                (found,) = client.get_devices(controller.state_dir).body["devices"] or [None]
                return found
            return None

        lost = wait_until(device)
        assert (lost["health"], lost["health_reason"], lost["advice"], lost["recovery"]) == (
            *("failed", "XID 79: fell off the bus", "reboot the node", "reboot"),
        )
        assert [(one["kind"], one["present"]) for one in lost["findings"]] == [("xid", True)]
        told = controller.muai("explain", "big").stdout
        assert "failed: XID 79: fell off the bus; reboot the node" in told
        (tmp_path / "lost").unlink()
        wait_until(lambda: True if not device()["findings"][0]["present"] else None)
        assert device()["health"] == "failed"
        done = controller.muai("reinstate", "gpu0")
        assert "it was failed, XID 79: fell off the bus" in done.stdout
        wait_until(lambda: True if device()["health"] == "healthy" else None)


@pytest.mark.parametrize("arguments", [(), ("--now",)])
def test_stop_returns_when_the_controller_and_its_engines_are_gone(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with started(tmp_path) as controller:
        (chat,) = controller.wait_settled()["models"]["chat"]["replicas"]
        done = controller.muai("stop", *arguments)
        assert (done.returncode, done.stdout) == (0, "stopped\n")
        assert controller.process.poll() is not None
        with pytest.raises(ProcessLookupError):
            os.kill(chat["pid"], 0)
        assert controller.muai("status").returncode == 3
        assert controller.muai("stop").returncode == 3


def test_stop_may_only_ask(tmp_path: Path) -> None:
    with started(tmp_path) as controller:
        controller.wait_settled()
        done = controller.muai("stop", "--wait", "0")
        assert (done.returncode, done.stderr) == (0, "")
        assert "asked the controller" in done.stdout
        assert controller.process.wait(DEADLINE_S) == 0


def test_a_stop_that_takes_longer_than_the_wait_says_so(tmp_path: Path) -> None:
    stubborn = CONFIG.replace("load_s: 0.1,", "load_s: 0.1, faults: {{refuse_to_die: true}},", 1)
    with started(tmp_path, stubborn) as controller:
        controller.wait_settled()
        done = controller.muai("stop", "--wait", "0.3")
        assert (done.returncode, done.stdout) == (1, "")
        assert "is still there after 0.3 s" in done.stderr
        assert json.loads(controller.muai("status", "--json").stdout)["state"] == "stopping"
        assert controller.muai("stop", "--now").returncode == 0
        assert controller.process.poll() is not None
