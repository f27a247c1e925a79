"""Headers of the PROXY protocol. The oracle reads the whole header at once, as HAProxy's document describes it."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct

from streamproxy.wire.proxy_protocol import NOBODY, Announced, BadProxyHeader, ProxyHeader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
DICTIONARY = (
    SIGNATURE, SIGNATURE + b"\x21\x11\x00\x0c", SIGNATURE + b"\x21\x21\x00\x24", SIGNATURE + b"\x20\x00\x00\x00",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY TCP6 ::1 ::2 1 2\r\n", b"PROXY UNKNOWN\r\n", b"65535", b"\r\n",
)  # fmt: skip
_V2_MOST = 4096

Outcome = tuple[Announced, int] | None


def reference(data: bytes) -> Outcome:
    """Returns what is announced and the header's size in bytes; None if the header is bad or not whole."""
    if data.startswith(SIGNATURE):
        return _binary(data)
    end = data.find(b"\n")
    line = data[: end + 1]
    if not line.endswith(b"\r\n") or len(line) > 107:
        return None
    words = line[:-2].split(b" ")
    if words[:2] == [b"PROXY", b"UNKNOWN"]:
        return NOBODY, len(line)
    if len(words) != 6 or words[0] != b"PROXY" or words[1] not in (b"TCP4", b"TCP6"):
        return None
    family = socket.AF_INET if words[1] == b"TCP4" else socket.AF_INET6
    if not all(re.fullmatch(rb"[0-9]{1,5}", port) and int(port) < 65536 for port in words[4:]):
        return None
    try:
        addresses = [_text(socket.inet_pton(family, word.decode("ascii"))) for word in words[2:4]]
    except (OSError, ValueError):
        return None
    return Announced((addresses[0], int(words[4])), (addresses[1], int(words[5]))), len(line)


def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _binary(data: bytes) -> Outcome:
    if len(data) < 16:
        return None
    command, family, size = struct.unpack("!BBH", data[12:16])
    if command not in (0x20, 0x21) or size > _V2_MOST or len(data) < 16 + size:
        return None
    block = data[16 : 16 + size]
    width = {1: 4, 2: 16}.get(family >> 4)
    if command == 0x20 or width is None:
        return NOBODY, 16 + size
    if size < 2 * width + 4:
        return None
    ports = struct.unpack("!HH", block[2 * width : 2 * width + 4])
    return Announced((_text(block[:width]), ports[0]), (_text(block[width : 2 * width]), ports[1])), 16 + size


def read(data: bytes, step: int) -> Outcome:
    """The same by our parser, in reads of at most ``step`` bytes and never more than it wants."""
    header, at = ProxyHeader(), 0
    try:
        while at < len(data):
            assert 0 < header.wanted <= 16 + _V2_MOST
            size = min(step, header.wanted)
            whole = header.feed(data[at : at + size])
            at += min(size, len(data) - at)
            if whole:
                assert header.announced is not None
                return header.announced, at
    except BadProxyHeader:
        return None
    return None


def check(data: bytes) -> None:
    expected = reference(data)
    for step in (1, 7, 1 << 16):
        assert read(data, step) == expected, (step, read(data, step), expected)
