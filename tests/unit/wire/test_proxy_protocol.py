"""The header of the PROXY protocol, read without a byte of what follows."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.wire.proxy_protocol import Announced, BadProxyHeader, ProxyHeader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack(">HH", 54321, 443)
V6 = bytes(15) + b"\x01" + bytes.fromhex("20010db8000000000000000000000002") + struct.pack(">HH", 1, 2)


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(block)) + block


NOBODY = Announced(None, None)
GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.2 54321 443\r\n": Announced(("192.0.2.1", 54321), ("198.51.100.2", 443)),
    b"PROXY TCP6 ::1 2001:db8::2 1 2\r\n": Announced(("::1", 1), ("2001:db8::2", 2)),
    b"PROXY TCP6 ::ffff:9.8.7.6 ::ffff:c000:201 1 2\r\n": Announced(("9.8.7.6", 1), ("192.0.2.1", 2)),
    b"PROXY UNKNOWN\r\n": NOBODY,
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": NOBODY,
    b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n": Announced(
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535), ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)
    ),
    v2(0x21, 0x11, V4): Announced(("192.0.2.1", 54321), ("198.51.100.2", 443)),
    v2(0x21, 0x11, V4 + b"\x04\x00\x02ab" + b"\x20" * 50): Announced(("192.0.2.1", 54321), ("198.51.100.2", 443)),
    v2(0x21, 0x21, V6): Announced(("::1", 1), ("2001:db8::2", 2)),
    v2(0x20, 0x00, b""): NOBODY,  # LOCAL: a health check of the balancer's own
    v2(0x20, 0x11, V4): NOBODY,
    v2(0x21, 0x00, b""): NOBODY,  # UNSPEC
    v2(0x21, 0x31, bytes(216)): NOBODY,  # unix sockets
}
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 54321\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 ::1 ::2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN " + b"x" * 120,
    b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
    v2(0x11, 0x11, V4),
    v2(0x22, 0x11, V4),
    v2(0x21, 0x11, V4[:-1]),
    v2(0x21, 0x21, V4),
    v2(0x21, 0x11, bytes(5000)),
    SIGNATURE[:-1] + b"X" + bytes(10),
]


def read(data: bytes, most: int) -> tuple[Announced | None, bytes]:
    """Read a header from a stream that gives at most so many bytes at once; returns it and what is left."""
    header = ProxyHeader()
    while header.announced is None and data:
        size = min(header.wanted, most)
        assert size > 0
        header.feed(data[:size])
        data = data[size:]
    return header.announced, data


@pytest.mark.parametrize("header", GOOD, ids=repr)
@given(most=st.integers(1, 300), rest=st.binary(max_size=40))
def test_a_header_is_read_and_nothing_behind_it(header: bytes, most: int, rest: bytes) -> None:
    assert read(header + rest, most) == (GOOD[header], rest)


@pytest.mark.parametrize("header", GOOD, ids=repr)
def test_a_part_of_it_is_no_header(header: bytes) -> None:
    for size in range(len(header)):
        assert read(header[:size], 300) == (None, b"")


@pytest.mark.parametrize("header", BAD, ids=repr)
@pytest.mark.parametrize("most", [1, 300])
def test_anything_else_is_refused(header: bytes, most: int) -> None:
    with pytest.raises(BadProxyHeader):
        read(header + b"\r\n" * 200, most)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_do_any_harm(data: bytes, most: int) -> None:
    with contextlib.suppress(BadProxyHeader):
        read(data, most)
