"""Our own errors as a gRPC client reads them."""

from __future__ import annotations

import pytest

from streamproxy.dialects.grpc import grpc_error, is_grpc
from streamproxy.errors import (
    BadResponse,
    ClientLimitReached,
    ConnectionRefused,
    ConnectionTerminated,
    ConnectTimeout,
    Denied,
    DestinationUnavailable,
    InternalError,
    LimitReached,
    NoRoute,
)

CODES = {
    "refused": (ConnectionRefused(), 14),
    "unavailable": (DestinationUnavailable("no endpoint"), 14),
    "time-out": (ConnectTimeout(), 4),
    "no credential": (Denied(challenge="Bearer"), 16),
    "no route": (NoRoute(), 12),
    "a limit": (LimitReached("too many", retry_after=1), 14),
    "a client's limit": (ClientLimitReached("too many", retry_after=1), 8),
    "closed": (ConnectionTerminated(), 13),
    "malformed": (BadResponse(), 13),
    "fault of ours": (InternalError(), 13),
}


@pytest.mark.parametrize("case", CODES)
def test_an_error_has_the_code_that_grpc_clients_know(case: str) -> None:
    error, code = CODES[case]
    fields = dict(grpc_error(error, "id-1"))
    assert fields[b"grpc-status"] == b"%d" % code
    assert fields[b"content-type"] == b"application/grpc"
    assert fields[b"x-request-id"] == b"id-1"


def test_a_message_is_percent_encoded() -> None:
    fields = dict(grpc_error(NoRoute("100 % of\nnothing, Gruß"), "id"))
    assert fields[b"grpc-message"] == b"100 %25 of%0Anothing, Gru%C3%9F"


@pytest.mark.parametrize(
    ("media", "call"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/GRPC; x=y", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
    ],
)
def test_a_call_is_told_by_its_media_type(media: bytes, call: bool) -> None:
    assert is_grpc([(b"content-type", media)]) is call
    assert not is_grpc([])
