"""What went wrong, as an HTTP status and the fields of the wire formats' error objects."""
from __future__ import annotations

from typing import Any

from pydantic import ValidationError

import dsvk

ANTHROPIC_PATHS = ("/anthropic", "/v1/messages", "/v1/messages/count_tokens")      # and what is under the first
ANTHROPIC_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
                   429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}


class ApiError(Exception):
    """param: the field at fault, "messages[0].content"; code: OpenAI's word for the case; anthropic_message: where its clients
    read another sentence."""

    anthropic_message: str | None = None
    usage: dict[str, Any] | None = None      # what was done before it went wrong, as the wire format tells it

    def __init__(self, status: int, message: str, *, type: str = "invalid_request_error",
                 code: str = "invalid_request_error", param: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.type, self.code, self.param = status, message, type, code, param
        self.headers = headers or {}

    def written(self, path: str, request_id: str) -> tuple[int, dict[str, Any]]:
        """Status and body, in the shape that the path decides."""
        status, shown = (self.anthropic_status, self.anthropic(request_id)) if of_anthropic(path) else (self.status, self.openai())
        return status, shown if self.usage is None else {**shown, "usage": self.usage}

    def openai(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def anthropic(self, request_id: str) -> dict[str, Any]:
        kind = ANTHROPIC_TYPES.get(self.anthropic_status, "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": self.anthropic_message or self.message}, "request_id": request_id}

    @property
    def anthropic_status(self) -> int:
        return 529 if self.status == 503 else self.status


def of_anthropic(path: str) -> bool:
    return path in ANTHROPIC_PATHS or path.startswith("/anthropic/")


def bad(param: str | None, message: str) -> ApiError:
    """A value that is refused; the message names the field."""
    return ApiError(400, f"{param}: {message}" if param else message, param=param)


def overflow(requested: int, largest: int, param: str) -> ApiError:
    error = ApiError(400, f"This model's maximum context length is {largest} tokens. However, you requested {requested} tokens. "
                     "Please reduce the length of the messages or completion.", code="context_length_exceeded", param=param)
    error.anthropic_message = f"prompt is too long: {requested} tokens > {largest} maximum"
    return error


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, type="service_unavailable_error", code="server_is_overloaded", headers={"Retry-After": "5"})


def internal() -> ApiError:
    return ApiError(500, "the server failed; its log says how", type="server_error", code="server_error")


def of_engine(error: dsvk.Error) -> ApiError:
    if isinstance(error, dsvk.BusyError):
        return ApiError(429, str(error), type="rate_limit_error", code="rate_limit_exceeded", headers={"Retry-After": "1"})
    if isinstance(error, (dsvk.DeviceLostError, dsvk.StateError, dsvk.CancelledError)):
        return unavailable(str(error))
    if isinstance(error, dsvk.UnsupportedError):      # a grammar that comes to a limit on its way
        return bad(None, str(error))
    return ApiError(500, str(error), type="server_error", code="server_error")


def place(location: tuple[str | int, ...]) -> str:
    """("messages", 0, "content") -> "messages[0].content" """
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def of_validation(error: ValidationError) -> ApiError:
    """The first field that is wrong."""
    first = error.errors(include_url=False)[0]
    reason = first.get("ctx", {}).get("error")
    message = str(reason) if isinstance(reason, ValueError) else first["msg"]
    given = first["input"]
    if reason is None and isinstance(given, (str, int, float)):
        message += f", got {given!r:.80}"
    return bad(place(first["loc"]) or None, message)
