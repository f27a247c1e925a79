"""How the C library's allocator keeps memory.

The event loop reads up to 250 KiB at once into an object of that size, which is freed when it has been relayed. By
default glibc takes memory of that size from the kernel for each, or returns it as soon as it is free, and either way
the kernel clears every page again: a download cost 750 µs of CPU a megabyte so, and costs 350 when the allocator keeps
what it has.
"""

from __future__ import annotations

import ctypes
from typing import Final

# Parameters of mallopt(3), by their numbers in malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

KEPT: Final = 4 * 2**20  # bytes of free memory at the top of the heap that are not returned
OF_THEIR_OWN: Final = 2**20  # bytes from which on a block is mapped by itself


def keep_buffers() -> bool:
    """Tell glibc to keep memory for buffers; whether it was there to be told (musl and others have no such word)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, OF_THEIR_OWN)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
