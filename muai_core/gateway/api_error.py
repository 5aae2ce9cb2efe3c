"""Errors as OpenAI clients expect them: one shape, in a body or as the last event of a stream."""

import msgspec

_INVALID = "invalid_request_error"


class ApiError(Exception):
    """What a client is told instead of an answer.

    `kind` and `code` are OpenAI's `type` and `code`; `retry_after_s` becomes a Retry-After header.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = _INVALID,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers

    def body(self) -> bytes:
        """The error as a JSON document."""
        return msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )

    def event(self) -> bytes:
        """The error as a server-sent event, for a stream that has begun."""
        return b"event: error\ndata: " + self.body() + b"\n\n"


def model_not_found(name: str | None, known: tuple[str, ...]) -> ApiError:
    """404: the request names no model, or one that is not served here."""
    asked = "the request names no model" if not name else f"there is no model {name[:200]!r}"
    exist = ", ".join(known) if known else "none"
    return ApiError(404, "model_not_found", f"{asked}; models here: {exist}", param="model")


def model_not_ready(
    name: str, state: str, reason: str | None, retry_after_s: float | None
) -> ApiError:
    """503: the model is configured, but no replica can take a request now."""
    why = f": {reason}" if reason else ""
    return ApiError(
        503,
        "model_not_ready",
        f"model {name!r} is not ready, its state is {state}{why}; try again later",
        kind="service_unavailable",
        retry_after_s=retry_after_s if retry_after_s is not None else 5.0,
    )


def timed_out(what: str, timeout_s: float, option: str) -> ApiError:
    """504: a replica missed a deadline."""
    return ApiError(
        504,
        "timeout",
        f"the replica {what} within {timeout_s:g} s (gateway.{option})",
        kind="timeout_error",
    )


def replica_failed(detail: str) -> ApiError:
    """502: every replica that could be tried failed."""
    return ApiError(
        502, "replica_failed", f"no replica could answer: {detail}", kind="server_error"
    )


def stream_cut(detail: str) -> ApiError:
    """The stream ended before its end; sent as an event because the status line is long gone."""
    return ApiError(
        502,
        "stream_interrupted",
        f"the replica stopped in the middle of the answer: {detail}",
        kind="server_error",
    )


def gateway_stopped() -> ApiError:
    """503, or the last event of a stream: draining was over before the answer was."""
    return ApiError(
        503,
        "gateway_stopped",
        "the gateway stopped before the answer was complete",
        kind="service_unavailable",
        retry_after_s=5.0,
    )


def internal_error() -> ApiError:
    """500: a mistake in the gateway."""
    return ApiError(500, "internal_error", "internal error", kind="server_error")


def body_too_large(max_body_bytes: int) -> ApiError:
    """413."""
    return ApiError(
        413, "body_too_large", f"the body is over {max_body_bytes} bytes (gateway.max_body_bytes)"
    )
