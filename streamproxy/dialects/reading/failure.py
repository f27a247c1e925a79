"""Failures that a stream reports inside: each API's own form, one error of ours."""

from __future__ import annotations

from typing import Any, Final

from streamproxy.dialects.reading.values import decode, encode, table
from streamproxy.errors import UpstreamReportedError

_OVERLOADED: Final = frozenset({"overloaded_error", "529"})
_LIMITED: Final = frozenset(
    {"rate_limit_error", "rate_limit_exceeded", "insufficient_quota", "RESOURCE_EXHAUSTED", "429"}
)
_DETAIL: Final = 500  # characters of a message that are kept for the log
_LARGEST: Final = 64 << 10  # bytes of a report that are kept for a client


def failure_of(event: dict[str, Any], data: bytes) -> UpstreamReportedError | None:
    """The failure that an event reports, whose JSON is ``data``; None for an event of any other kind.

    The forms are ``{"error": {…}}`` of OpenAI, its imitations and Gemini, ``{"type": "error", "error": {…}}`` of
    Anthropic, ``{"type": "error", "code": …, "message": …}`` of OpenAI's Responses, ``{"object": "error", …}`` of
    older engines, and ``{"error": "…"}`` of Ollama and TGI.
    """
    error = event.get("error")
    if not is_failure(event):
        return None
    if isinstance(error, dict) and error:
        about = error
    elif isinstance(error, str) and error:
        about = {"message": error, "code": event.get("code"), "type": event.get("error_type")}
    else:
        about = _plain(event)
        data = encode({"error": about})
    message = about.get("message")
    return UpstreamReportedError(
        message[:_DETAIL] if isinstance(message, str) else "",
        status=_status(about),
        payload=data if len(data) <= _LARGEST else b"",
    )


def is_failure(event: dict[str, Any]) -> bool:
    """Whether an event reports a failure, in the form of any API."""
    return bool(event.get("error")) or "error" in (event.get("type"), event.get("object"))


def error_object(payload: bytes) -> dict[str, Any]:
    """The object under ``error`` in what an upstream reported; one with a message where it is only that.

    ``{"object": "error", "message": …}``, as SGLang and TensorRT-LLM answer, is that object itself.
    """
    report = table(decode(payload))
    error = report.get("error")
    if error is None and is_failure(report):
        return _plain(report)
    return {"message": error} if isinstance(error, str) else table(error)


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("object", "event_id", "error")}


def _status(error: dict[str, Any]) -> int:
    said = {str(value) for key in ("type", "code", "status") if isinstance(value := error.get(key), str | int)}
    if said & _OVERLOADED:
        return 529
    return 429 if said & _LIMITED else 502
