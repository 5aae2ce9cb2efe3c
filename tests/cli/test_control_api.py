"""The control socket: who may use it, what it answers, and what commands make of that."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import click
import pytest

from muai_core.cli import controller_client as client
from muai_core.runtime import control_socket
from muai_core.runtime.control_api import ControlApi


class FakeController:
    """What the API asks of a controller."""

    def __init__(self) -> None:
        self.stops: list[bool] = []
        self.reinstated: list[str] = []
        self.failure: Exception | None = None

    def status(self) -> dict[str, Any]:
        if self.failure is not None:
            raise self.failure
        return {"models": {"chat": {}, "org/small": {}}, "note": "für alle"}

    def explain(self, model: str) -> dict[str, Any] | None:
        return {"model": model} if model in ("chat", "org/small") else None

    def devices(self) -> dict[str, Any]:
        return {
            "devices": [
                {"uuid": "GPU-1111aaaa", "node": "a", "kind": "gpu", "label": "0"},
                {"uuid": "GPU-1111bbbb", "node": "a", "kind": "gpu", "label": "1"},
                {"uuid": "GPU-1111cccc", "node": "a", "kind": "gpu", "label": "1:0"},
                {"uuid": "GPU-2222aaaa", "node": "b", "kind": "gpu", "label": "0"},
                {"uuid": "CPU-b", "node": "b", "kind": "cpu", "label": "0"},
            ]
        }

    def api(self, state_dir: Path) -> ControlApi:
        return ControlApi(
            state_dir,
            self.status,
            self.explain,
            self.stops.append,
            devices=self.devices,
            reinstate=self.reinstated.append,
            snapshot=lambda: b'{"now_s":1.5}',
        )


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
async def served(tmp_path: Path, controller: FakeController) -> AsyncIterator[Path]:
    """A state directory whose API is up."""
    api = controller.api(tmp_path)
    await api.start()
    yield tmp_path
    await api.close()


async def ask(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


async def test_the_socket_belongs_to_its_owner_alone(served: Path) -> None:
    mode = (served / control_socket.SOCKET_NAME).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_the_umask_cannot_open_the_socket_to_others(
    tmp_path: Path, controller: FakeController
) -> None:
    before = os.umask(0)
    try:
        api = controller.api(tmp_path)
        await api.start()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / control_socket.SOCKET_NAME).stat().st_mode) == 0o600
    await api.close()


async def test_the_status_goes_through(served: Path) -> None:
    told = await ask(client.get_status, served)
    assert told["note"] == "für alle"


@pytest.mark.parametrize("model", ["chat", "org/small"])
async def test_a_model_is_explained(served: Path, model: str) -> None:
    assert await ask(client.get_explanation, served, model) == {"model": model}


@pytest.mark.parametrize("model", ["chart", "ch at?x=1#y", "../v1/status", "%2e", "ä"])
async def test_an_unknown_model_is_told_which_there_are(served: Path, model: str) -> None:
    with pytest.raises(client.NotFound) as caught:
        await ask(client.get_explanation, served, model)
    assert f"no model {model!r}" in caught.value.message
    assert "there are: chat, org/small" in caught.value.message


@pytest.mark.parametrize("now", [True, False])
async def test_the_order_to_stop_goes_through(
    served: Path, controller: FakeController, now: bool
) -> None:
    assert await ask(client.post_stop, served, now) == os.getpid()
    assert controller.stops == [now]


async def test_stop_without_a_body_drains(served: Path, controller: FakeController) -> None:
    answer = await ask(client.ask, served, "POST", "/v1/stop")
    assert (answer.status, answer.body) == (202, {"stopping": True})
    assert controller.stops == [False]


async def test_the_devices_go_through(served: Path) -> None:
    answer = await ask(client.get_devices, served)
    assert answer.pid == os.getpid()
    assert len(answer.body["devices"]) == 5


@pytest.mark.parametrize(
    ("name", "uuid"),
    [
        ("GPU-1111bbbb", "GPU-1111bbbb"),
        ("GPU-2222", "GPU-2222aaaa"),
        ("a/gpu0", "GPU-1111aaaa"),
        ("a/0", "GPU-1111aaaa"),
        ("b/cpu0", "CPU-b"),
        ("gpu1", "GPU-1111bbbb"),
        ("1", "GPU-1111bbbb"),
        (" a/gpu1:0 ", "GPU-1111cccc"),
    ],
)
async def test_a_device_is_reinstated_by_any_name_that_is_clear(
    served: Path, controller: FakeController, name: str, uuid: str
) -> None:
    assert (await ask(client.post_reinstate, served, name))["uuid"] == uuid
    assert controller.reinstated == [uuid]


@pytest.mark.parametrize("name", ["gpu7", "GPU-", "", "GPU-3333aaaa", "c/gpu0"])
async def test_an_unknown_device_is_told_which_there_are(
    served: Path, controller: FakeController, name: str
) -> None:
    with pytest.raises(client.NotFound) as caught:
        await ask(client.post_reinstate, served, name)
    assert f"there is no device {name!r}" in caught.value.message
    assert "a/gpu0, a/gpu1, a/gpu1:0, b/gpu0, b/cpu0" in caught.value.message
    assert controller.reinstated == []


@pytest.mark.parametrize(
    ("name", "one_of_them"),
    [("gpu0", "b/gpu0 (GPU-2222aaaa)"), ("b/0", "b/cpu0"), ("GPU-1111", "a/gpu1:0")],
)
async def test_a_name_of_several_devices_reinstates_none(
    served: Path, controller: FakeController, name: str, one_of_them: str
) -> None:
    with pytest.raises(client.Ambiguous) as caught:
        await ask(client.post_reinstate, served, name)
    assert one_of_them in caught.value.message
    assert controller.reinstated == []


@pytest.mark.parametrize("body", [None, {"device": 3}, {"uuid": "GPU-1"}])
async def test_a_wrong_word_on_a_device_is_refused(served: Path, body: Any) -> None:
    answer = await ask(client.ask, served, "POST", "/v1/reinstate", body)
    assert answer.status == 400
    assert "expected a JSON object" in answer.body["error"]["message"]


@pytest.mark.parametrize("body", [{"now": "yes"}, {"later": True}])
async def test_a_wrong_order_stops_nothing(
    served: Path, controller: FakeController, body: dict[str, Any]
) -> None:
    answer = await ask(client.ask, served, "POST", "/v1/stop", body)
    assert answer.status == 400
    assert "expected a JSON object" in answer.body["error"]["message"]
    assert controller.stops == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("DELETE", "/v1/status", 405), ("GET", "/", 404)],
)
async def test_other_requests_are_refused_as_json(
    served: Path, method: str, path: str, status: int
) -> None:
    answer = await ask(client.ask, served, method, path)
    assert answer.status == status
    assert path in answer.body["error"]["message"]


async def test_a_failing_view_is_told_and_the_api_lives_on(
    served: Path, controller: FakeController
) -> None:
    controller.failure = KeyError("devices")
    with pytest.raises(click.ClickException, match="the controller failed to answer: KeyError"):
        await ask(client.get_status, served)
    controller.failure = None
    assert "models" in await ask(client.get_status, served)


async def test_a_state_directory_may_have_any_depth(
    tmp_path: Path, controller: FakeController
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    api = controller.api(deep)
    await api.start()
    assert "models" in await ask(client.get_status, deep)
    await api.close()


async def test_a_socket_left_by_a_dead_controller_is_replaced(
    tmp_path: Path, controller: FakeController
) -> None:
    control_socket.listen(tmp_path).close()
    assert (tmp_path / control_socket.SOCKET_NAME).exists()
    with pytest.raises(client.NoController):
        await ask(client.get_status, tmp_path)
    api = controller.api(tmp_path)
    await api.start()
    assert "models" in await ask(client.get_status, tmp_path)
    await api.close()


async def test_closing_takes_the_socket_away_and_may_be_repeated(
    tmp_path: Path, controller: FakeController
) -> None:
    api = controller.api(tmp_path)
    await api.start()
    await api.close()
    await api.close()
    assert not (tmp_path / control_socket.SOCKET_NAME).exists()


@pytest.mark.parametrize("state_dir", ["nowhere", "file"])
def test_without_a_controller_the_client_says_so(tmp_path: Path, state_dir: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(client.NoController) as caught:
        client.get_status(tmp_path / state_dir)
    assert caught.value.exit_code == 3
    assert "no controller is running" in caught.value.message


def test_a_controller_that_hangs_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    with control_socket.listen(tmp_path), pytest.raises(click.ClickException) as caught:
        client.get_status(tmp_path)
    assert "does not answer: timed out" in caught.value.message


@pytest.mark.parametrize("command", [["status"], ["stop"], ["reinstate", "gpu0"]])
def test_commands_without_a_controller_exit_with_3(command: list[str], muai: Any) -> None:
    done = muai(*command)
    assert (done.status, done.out) == (3, "")
    assert "no controller is running" in done.err
