"""A WebSocket's bytes: the two heads of a handshake, and frames whose mask shows what it masks."""

from __future__ import annotations

from streamproxy.wire.websocket import accept_of

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n%b\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + accept_of(KEY)
    + b"\r\n%b\r\n"
)
MASK = b"\x00\x00\x00\x00"
HELLO = b"\x81\x85" + MASK + b"hello"
WORLD = b"\x81\x05world"
CLIENT_CLOSE = b"\x88\x82" + MASK + b"\x03\xe8"
UPSTREAM_CLOSE = b"\x88\x02\x03\xe8"


def big_frame(payload: bytes, *, masked: bool) -> bytes:
    """A binary message in one frame with a length of eight bytes."""
    second = b"\xff" if masked else b"\x7f"
    return b"\x82" + second + len(payload).to_bytes(8, "big") + (MASK if masked else b"") + payload
