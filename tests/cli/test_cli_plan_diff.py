"""muai plan --diff against a real controller with simulated engines: what would change, undone."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muai_core.cli import controller_client as client

DEADLINE_S = 60.0
DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")

CONFIG = """\
gateway: {{port: {port}}}
devices:
  sources: [simulated]
  observe_interval_s: 0.2
  simulated: {{gpus: 4, profile: A100-80GB, node: box}}
models:
  chat:
    source: simulated:chat
    engine: simulated
    tensor_parallel_size: 2
    engine_options: {{load_s: 0.1, memory_gib: 40}}
  small:
    source: simulated:small
    engine: simulated
    engine_options: {{load_s: 0.1, memory_gib: 10}}
"""


class Controller:
    """One `muai run`, and commands that talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.config = CONFIG.format(port=probe.getsockname()[1])
        (folder / "muai.yaml").write_text(self.config)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "muai_core.cli.main", "run", str(folder / "muai.yaml")],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "MUAI_STATE_DIR": str(self.state_dir)}

    def wait_ready(self) -> None:
        give_up_at_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up_at_s:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(client.NoController):
                models = client.get_status(self.state_dir)["models"]
                if models and all(model["ready"] for model in models.values()):
                    return
            time.sleep(0.02)
        raise AssertionError(f"not ready within {DEADLINE_S:g} s: {self.log.read_text()}")

    def placed(self) -> dict[str, Any]:
        """Replica → its epoch and devices, as the controller has them."""
        models = client.get_status(self.state_dir)["models"]
        return {
            one["id"]: (one["epoch"], one["devices"])
            for model in models.values()
            for one in model["replicas"]
        }

    def diff(self, *arguments: str, config: str | None = None) -> Any:
        """(status, stdout) of `muai plan --diff` with this config, or the controller's own."""
        file = self.folder / "other.yaml"
        file.write_text(config or self.config)
        done = subprocess.run(
            [sys.executable, "-m", "muai_core.cli.main", "plan", "--diff", str(file), *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    controller = Controller(tmp_path_factory.mktemp("running"))
    try:
        controller.wait_ready()
        yield controller
    finally:
        controller.process.terminate()
        try:
            controller.process.wait(30)
        except subprocess.TimeoutExpired:
            controller.process.kill()
            controller.process.wait()


def verdicts(view: Any) -> dict[str, str]:
    return {
        one["replica"]: one["verdict"]
        for model in view["models"].values()
        for one in model["replicas"]
    }


def test_the_same_config_changes_nothing(running: Controller) -> None:
    status, out = running.diff()
    assert (status, out) == (0, "Nothing would change.\n")
    status, out = running.diff("--json")
    view = json.loads(out)
    assert (status, view["changed"], view["settings"]) == (0, False, [])
    assert verdicts(view) == {"chat.0": "stays", "small.0": "stays"}


def test_a_changed_model_is_replaced_and_a_new_one_starts(running: Controller) -> None:
    before = running.placed()
    config = running.config.replace("memory_gib: 10", "memory_gib: 20") + (
        "  other: {source: 'simulated:x', engine: simulated, engine_options: {memory_gib: 5}}\n"
    )
    status, out = running.diff("--json", config=config)
    view = json.loads(out)
    assert (status, view["changed"]) == (4, True)
    models = view["models"]
    assert {name: model["verdict"] for name, model in models.items()} == {
        "chat": "unchanged",
        "small": "changed",
        "other": "new",
    }
    assert models["small"]["fields"] == [
        {"field": "memory_gib", "before": 10.0, "after": 20.0},
        {"field": "engine_options.memory_gib", "before": None, "after": None},
    ]
    assert verdicts(view) == {
        "chat.0": "stays",
        "small.0": "stops",
        "small.1": "starts",
        "other.0": "starts",
    }
    assert running.placed() == before


def test_more_replicas_touch_no_other(running: Controller) -> None:
    status, out = running.diff("--json", "--set", "models.small.replicas=3")
    assert status == 4
    assert verdicts(json.loads(out)) == {
        "chat.0": "stays",
        "small.0": "stays",
        "small.1": "starts",
        "small.2": "starts",
    }


def test_a_model_that_is_gone_stops(running: Controller) -> None:
    config = running.config.partition("  small:")[0]
    status, out = running.diff(config=config)
    assert status == 4
    rows = [line.split() for line in out.splitlines()]
    assert ["small", "gone", "-", "-", "-"] in rows
    assert ["small", "small.0", "stops", "box/gpu2", "-"] in rows
    assert out.endswith("1 replica would stay, 1 replica would stop; nothing was done.\n")


def test_what_would_find_no_devices_is_told_with_status_1(running: Controller) -> None:
    status, out = running.diff("--json", "--set", "models.chat.tensor_parallel_size=8")
    view = json.loads(out)
    assert (status, view["unplaced"][0]["model"]) == (1, "chat")
    assert verdicts(view)["small.0"] == "stays"


def test_the_move_that_would_serve_a_waiting_model_is_proposed(running: Controller) -> None:
    """Free are 80 GiB of one GPU and 70 of another; what holds 10 GiB there could go elsewhere."""
    before = running.placed()
    config = running.config + (
        "  big:\n    source: simulated:big\n    engine: simulated\n    tensor_parallel_size: 2\n"
        "    engine_options: {memory_gib: 75}\n"
    )
    status, out = running.diff("--json", config=config)
    view = json.loads(out)
    assert (status, view["unplaced"][0]["reason"]) == (1, "capacity")
    (move,) = view["proposed_moves"]["big"]
    assert move["replica"] == "small.0"
    (source,), (target,) = move["before"][0], move["after"][0]
    assert source != target
    assert move["moved_bytes"] == 10 * 2**30
    _, out = running.diff(config=config)
    assert "big would be served if these moved:" in out
    assert running.placed() == before


def test_settings_that_differ_are_told(running: Controller) -> None:
    arguments = ("--set", "devices.memory_reserve_gib=2", "--strategy", "packed")
    status, out = running.diff("--json", *arguments)
    assert status == 4
    told = {one["field"]: (one["before"], one["after"]) for one in json.loads(out)["settings"]}
    assert told["allocation.strategy"] == ("balanced", "packed")
    assert told["devices.memory_reserve_gib"] == (0.0, 2.0)


def test_the_json_is_documented(running: Controller) -> None:
    view = json.loads(running.diff("--json")[1])
    table = DOCUMENT.partition("| key of `plan --diff` |")[2].partition("\n\n")[0]
    cells = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    told = {key.strip("`| ") for cell in cells for key in cell.split(",")}
    assert set(view) == told
    for key in {**view["models"]["chat"], **view["models"]["chat"]["replicas"][0]}:
        assert f"`{key}`" in DOCUMENT.partition("## muai explain")[0]


def test_without_a_controller_there_is_nothing_to_compare_with(
    muai: Any, fleet_config: Any
) -> None:
    done = muai("plan", "--diff", fleet_config("  chat: {source: weights}\n"))
    assert (done.status, done.out) == (3, "")
    assert "no controller is running" in done.err


@pytest.mark.parametrize("option", [("--devices", "8xL4-24GB"), ("--without", "0")])
def test_other_devices_make_no_difference(muai: Any, fleet_config: Any, option: Any) -> None:
    done = muai("plan", "--diff", fleet_config("  chat: {source: weights}\n"), *option)
    assert (done.status, done.out) == (2, "")
    assert "--diff" in done.err
