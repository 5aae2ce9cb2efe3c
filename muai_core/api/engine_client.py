"""Asking the endpoint of a private controller, synchronously."""

import json
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from muai_core.api.engine_result import EngineError
from muai_core.planning.wording import one_line

_ASK_AGAIN_S = 0.2


def post(
    host: str, port: int, path: str, body: Mapping[str, Any], timeout_s: float
) -> dict[str, Any]:
    """The answer. While an engine is started again it is waited for. Raises EngineError."""
    give_up_at_s = time.monotonic() + timeout_s
    while True:
        left_s = max(_ASK_AGAIN_S, give_up_at_s - time.monotonic())
        status, again, answer = _posted(host, port, path, body, left_s)
        if status == 200:
            return answer
        if not again or time.monotonic() + _ASK_AGAIN_S > give_up_at_s:
            raise EngineError(answer.get("error", {}).get("message", f"status {status}"))
        time.sleep(_ASK_AGAIN_S)


def _posted(
    host: str, port: int, path: str, body: Mapping[str, Any], timeout_s: float
) -> tuple[int, bool, dict[str, Any]]:
    """Status, whether it may be another soon, and body of one answer."""
    connection = HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    except (OSError, HTTPException, ValueError) as error:
        words = one_line(str(error)) or type(error).__name__
        raise EngineError(f"the engine does not answer: {words}") from None
    finally:
        connection.close()
    again = response.status == 503 and response.getheader("Retry-After") is not None
    return response.status, again, answer
