"""Talking to a running controller over the Unix socket in its state directory."""

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from struct import Struct
from typing import Any
from urllib.parse import quote

import click

from muai_core.runtime.control_socket import connect
from muai_core.runtime.instance import is_claimed

EXIT_NO_CONTROLLER = 3
TIMEOUT_S = 10.0
#: pid, uid, gid: `struct ucred` of unix(7).
_UCRED = Struct("3i")


class NoController(click.ClickException):
    """No controller works on this state directory."""

    exit_code = EXIT_NO_CONTROLLER
    words = (
        "no controller is running with the state directory {}; "
        "start one with `muai run FILE`, or name another directory with --state-dir"
    )

    def __init__(self, state_dir: Path) -> None:
        super().__init__(self.words.format(state_dir))


class ControllerStarting(NoController):
    """A controller has begun to start on this state directory and does not listen yet."""

    exit_code = 1
    words = (
        "the controller with the state directory {} is still starting, or just ending; "
        "try again in some seconds"
    )


class NotFound(click.ClickException):
    """The controller knows nothing of that name; the text says what it knows."""


class Ambiguous(click.ClickException):
    """The name fits several things that the controller knows; the text says which."""


_ERRORS: dict[int, type[click.ClickException]] = {404: NotFound, 409: Ambiguous}


class _UnixConnection(HTTPConnection):
    def __init__(self, state_dir: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._state_dir = state_dir

    def connect(self) -> None:
        self.sock = connect(self._state_dir, TIMEOUT_S)


class Answer:
    """A status, a JSON body, and the pid of the process that answered (by the kernel's word)."""

    def __init__(self, status: int, body: dict[str, Any], pid: int) -> None:
        self.status = status
        self.body = body
        self.pid = pid


def ask(state_dir: Path, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
    """One request.

    Raises NoController or ControllerStarting; click.ClickException when it cannot answer.
    """
    connection = _UnixConnection(state_dir)
    try:
        connection.connect()
        pid = _peer_pid(connection.sock)
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()), pid)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        kind = ControllerStarting if is_claimed(state_dir) else NoController
        raise kind(state_dir) from None
    except PermissionError:
        raise click.ClickException(
            f"the controller in {state_dir} belongs to another user; run this as that user"
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise click.ClickException(
            f"the controller in {state_dir} does not answer: {error or type(error).__name__}; "
            "it may be stopped, or a plugin of it may be stuck"
        ) from None
    finally:
        connection.close()


def _peer_pid(connected: socket.socket) -> int:
    """The pid of the process that listens; 0 when it lives in another pid namespace."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid: int = _UCRED.unpack(credentials)[0]
    return pid


def get_status(state_dir: Path) -> dict[str, Any]:
    """The running controller's status, as documented in docs/cli.md."""
    answer = ask(state_dir, "GET", "/v1/status")
    _expect_ok(answer)
    return answer.body


def get_devices(state_dir: Path) -> Answer:
    """The running controller's devices, links and sources, and its pid."""
    answer = ask(state_dir, "GET", "/v1/devices")
    _expect_ok(answer)
    return answer


def get_snapshot(state_dir: Path) -> Answer:
    """The running controller's whole state, and its pid. It holds the engines' options."""
    answer = ask(state_dir, "GET", "/v1/snapshot")
    _expect_ok(answer)
    return answer


def post_reinstate(state_dir: Path, device: str) -> dict[str, Any]:
    """Tell the running controller that a device is fit again; the device as it was until now.

    Raises NotFound or Ambiguous when the name is not that of one device.
    """
    answer = ask(state_dir, "POST", "/v1/reinstate", {"device": device})
    _expect_ok(answer)
    found: dict[str, Any] = answer.body["device"]
    return found


def get_explanation(state_dir: Path, model: str) -> dict[str, Any]:
    """Why a model of the running controller is where it is."""
    answer = ask(state_dir, "GET", f"/v1/explain/{quote(model, safe='')}")
    _expect_ok(answer)
    return answer.body


def post_stop(state_dir: Path, now: bool) -> int:
    """Ask the running controller to stop; its pid."""
    answer = ask(state_dir, "POST", "/v1/stop", {"now": now})
    _expect_ok(answer)
    return answer.pid


def _expect_ok(answer: Answer) -> None:
    if answer.status < 400:
        return
    message = str(answer.body.get("error", {}).get("message", f"status {answer.status}"))
    raise _ERRORS.get(answer.status, click.ClickException)(message)
