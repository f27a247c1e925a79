"""Splits an input into reads, the same way each time.

The cuts come from a checksum of the input, so that a corpus file is nothing but the bytes of the wire.
"""

from __future__ import annotations

import itertools
import random
import zlib

_MOST_CUTS = 6


def reads_of(data: bytes) -> list[bytes]:
    """Returns ``data`` in up to seven reads, none of them empty."""
    chance = random.Random(zlib.crc32(data))
    cuts = {chance.randrange(1, len(data)) for _ in range(chance.randint(1, _MOST_CUTS))} if len(data) > 1 else set()
    edges = sorted({0, len(data), *cuts})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def bytes_of(data: bytes) -> list[bytes]:
    """Returns each byte as a read of its own."""
    return [data[at : at + 1] for at in range(len(data))]
