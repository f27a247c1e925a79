"""Error responses of the admin application: problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import JSONResponse

NO_STORE = {"cache-control": "no-store"}


def problem(
    status: int, detail: str, headers: dict[str, str] | None = None, *, problems: list[str] | None = None
) -> JSONResponse:
    """Returns the response for a status, with ``problems`` as an extension member."""
    content: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    content["detail"] = detail
    if problems is not None:
        content["problems"] = problems
    return JSONResponse(content, status, headers=NO_STORE | (headers or {}), media_type="application/problem+json")
