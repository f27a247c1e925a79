"""The header of the PROXY protocol, versions 1 and 2, with which a load balancer announces the real client.

(HAProxy's proxy-protocol.txt, sections 2.1 and 2.2.) The header is the first thing on a connection. It must be read
without a byte of what follows: `wanted` says how many bytes may be read next, and the caller never reads more.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from streamproxy.errors import StreamproxyError
from streamproxy.wire.forwarded import unmapped

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED: Final = 16  # bytes of a header of version 2 before its addresses
_V2_MOST: Final = 4096  # bytes after those that are accepted: addresses and TLVs
_V1_BEGIN: Final = b"PROXY"
_V1_MOST: Final = 107  # bytes of the longest line of version 1, including CRLF
_V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_V1_LINE: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9a-fA-F.:]+) ([0-9a-fA-F.:]+) ([0-9]{1,5}) ([0-9]{1,5})")
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_INET: Final = 1
_INET6: Final = 2


class BadProxyHeader(StreamproxyError):
    """The connection does not begin with a valid PROXY header."""


class Announced(NamedTuple):
    """The source and destination of the connection as (address, port). None: those of the connection itself."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None


NOBODY: Final = Announced(None, None)


class ProxyHeader:
    """Parses one header. ``announced`` holds the result once it is complete."""

    __slots__ = ("_data", "announced", "wanted")

    def __init__(self) -> None:
        self._data = b""
        self.announced: Announced | None = None
        self.wanted = _V1_SHORTEST  # how many bytes may be read next without passing the header's end

    def feed(self, data: bytes) -> bool:
        """Takes at most ``wanted`` bytes; returns whether the header is complete. Raises BadProxyHeader."""
        self._data = data = self._data + data
        if data.startswith(_SIGNATURE[: len(data)]):
            self._read_v2(data)
        elif data.startswith(_V1_BEGIN[: len(data)]):
            self._read_v1(data)
        else:
            raise BadProxyHeader("no PROXY header")
        return self.announced is not None

    def _read_v1(self, data: bytes) -> None:
        if data.endswith(b"\r\n"):
            self.announced = _line(data[:-2])
            self.wanted = 0
        elif len(data) >= _V1_MOST or b"\n" in data:
            raise BadProxyHeader("a PROXY line that does not end")
        elif len(data) < _V1_SHORTEST:
            self.wanted = _V1_SHORTEST - len(data)
        else:
            self.wanted = 1 if data.endswith(b"\r") else 2 if len(data) + 2 <= _V1_MOST else 1

    def _read_v2(self, data: bytes) -> None:
        if len(data) < _V2_FIXED:
            self.wanted = _V2_FIXED - len(data)
            return
        size = int.from_bytes(data[14:16], "big")
        if data[12] not in (_LOCAL, _PROXY):
            raise BadProxyHeader("a PROXY header of an unknown version or command")
        if size > _V2_MOST:
            raise BadProxyHeader("a PROXY header that is too long")
        self.wanted = _V2_FIXED + size - len(data)
        if not self.wanted:
            self.announced = NOBODY if data[12] == _LOCAL else _addresses(data[13], data[_V2_FIXED:])


def _line(line: bytes) -> Announced:
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return NOBODY
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise BadProxyHeader("a PROXY line that is malformed")
    version = 4 if match[1] == b"TCP4" else 6
    source, target = (_address(match[part].decode("ascii"), version) for part in (2, 3))
    ports = int(match[4]), int(match[5])
    if max(ports) > 0xFFFF:
        raise BadProxyHeader("a PROXY line with a port that is none")
    return Announced((source, ports[0]), (target, ports[1]))


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadProxyHeader("a PROXY line with an address that is none") from None
    if address.version != version:
        raise BadProxyHeader("a PROXY line with an address of another family")
    return str(unmapped(address))


def _addresses(family: int, block: bytes) -> Announced:
    """Parses the addresses of version 2, and skips TLVs. Families other than IP have none."""
    kind = family >> 4
    if kind not in (_INET, _INET6):
        return NOBODY  # AF_UNSPEC, AF_UNIX
    size = 4 if kind == _INET else 16
    if len(block) < 2 * size + 4:
        raise BadProxyHeader("a PROXY header whose addresses are cut off")
    source, target = (str(unmapped(ipaddress.ip_address(block[at : at + size]))) for at in (0, size))
    ports = block[2 * size : 2 * size + 4]
    return Announced((source, int.from_bytes(ports[:2], "big")), (target, int.from_bytes(ports[2:], "big")))
