"""The target of a request and the framing of its body, without I/O."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from streamproxy.wire.encode import ANNOUNCING, refuse_body
from streamproxy.wire.headers import Headers, lower_name

_FRAMING: Final = ANNOUNCING | {b"expect"}


class BodyFraming:
    """The framing of a request body: ``length`` bytes, or chunked if it is None."""

    __slots__ = ("expects_continue", "length")

    def __init__(self, length: int | None, expects_continue: bool) -> None:
        self.length = length
        self.expects_continue = expects_continue


def target_of(url: str) -> bytes:
    """Returns the target of a URL in origin form (RFC 9112 section 3.2.1). Raises ValueError if it is not ASCII."""
    parts = urlsplit(url)
    target = parts.path or "/"
    return (f"{target}?{parts.query}" if parts.query else target).encode("ascii")


def body_framing(headers: Headers) -> BodyFraming:
    """Returns the framing of a body that the headers announce. Raises ValueError if they contradict themselves.

    The client itself writes Transfer-Encoding: a hop-by-hop field from elsewhere could contradict it.
    """
    length: int | None = None
    expects_continue = False
    for name, value in headers:
        lower = lower_name(name)
        if lower not in _FRAMING:
            continue
        if lower == b"content-length":
            if length is not None or not value.isdigit():
                raise ValueError("Content-Length of the request is not one number")
            length = int(value)
        elif lower == b"transfer-encoding":
            raise ValueError("the client writes Transfer-Encoding itself")
        else:
            expects_continue = value.lower() == b"100-continue"
    return BodyFraming(length, expects_continue)


def refuse_body_fields(headers: Headers) -> None:
    """Raises ValueError if the fields of a request without a body announce one: the upstream would wait for it."""
    for name, value in headers:
        lower = lower_name(name)
        if lower in ANNOUNCING:
            refuse_body(lower, value)
