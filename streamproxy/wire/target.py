"""Request targets: matched in a normal form, forwarded byte for byte.

RFC 3986 section 6.2.2: two paths are equivalent if they differ only in percent-encoded unreserved characters or in the
case of percent-encodings. Matching uses the normal form. Dot segments are not removed, since the upstream must see what
the client sent; a path that would climb above its route's prefix is refused instead.
"""

from __future__ import annotations

import re
from typing import Final

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
PERCENT: Final = 0x25  # searching for an integer is faster than for a string of one byte
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def _decode(match: re.Match[bytes]) -> bytes:
    byte = int(match[1], 16)
    return bytes((byte,)) if byte in _UNRESERVED else match[0].upper()


def normal_path(raw_path: bytes) -> bytes:
    """Returns the path in the form that routes match."""
    return _ESCAPE.sub(_decode, raw_path) if PERCENT in raw_path else raw_path


def climbs(path: bytes, prefix: bytes) -> bool:
    """Whether the dot segments of a normal path lead above ``prefix`` (RFC 3986 section 5.2.4).

    ``prefix`` is the fixed part of a prefix route without its final slash: ``/api`` for ``/api/*``, empty for ``/*``.
    """
    if path.find(b"/.") < 0:
        return False
    depth = 0
    for segment in path[len(prefix) + 1 :].split(b"/"):
        if segment == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif segment != b".":
            depth += 1
    return False


def strip_prefix(raw_path: bytes, prefix: bytes) -> bytes:
    """Removes a prefix of whole segments from a raw path, if its normal form begins with it.

    The rest keeps its bytes and begins with a slash.
    """
    path = normal_path(raw_path)
    if not path.startswith(prefix) or (path[len(prefix) :][:1] not in (b"", b"/") and not prefix.endswith(b"/")):
        return raw_path
    taken = 0
    for _ in prefix:
        if raw_path[taken : taken + 1] == b"%" and len(normal_path(raw_path[taken : taken + 3])) == 1:
            taken += 3
        else:
            taken += 1
    rest = raw_path[taken:]
    return rest if rest.startswith(b"/") else b"/" + rest


def rewrite(raw_path: bytes, *, strip: bytes, add: bytes) -> bytes:
    """Applies a route's ``rewrite``: first ``strip_prefix``, then ``add_prefix``."""
    path = strip_prefix(raw_path, strip) if strip else raw_path
    return add.rstrip(b"/") + path if add else path
