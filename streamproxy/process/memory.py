"""How the C library's allocator keeps memory, and when it gives some back.

The event loop reads up to 250 KiB at once into an object of that size, which is freed when it has been relayed. By
default glibc takes memory of that size from the kernel for each, or returns it as soon as it is free, and either way
the kernel clears every page again, which more than doubles the cost of a download. So the allocator is told to keep
what it has.

It would keep all of it for ever, since what is free after a flood lies between what is in use. So a thread looks at
how much is in use. Once that has stayed well below its highest for several looks, whoever needed it has left, and the
pages that are free go back to the system. Memory that is used and freed again and again never looks so.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from typing import Any, Final

# Parameters of mallopt(3), by their numbers in malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

KEPT: Final = 4 * 2**20  # bytes of free memory at the top of the heap that are not returned
OF_THEIR_OWN: Final = 2**20  # bytes from which on a block is mapped by itself

LOOKS: Final = 3
INTERVAL: Final = 1.5  # seconds between two looks
WORTH: Final = 4 * 2**20  # bytes that are worth the trouble


class _Mallinfo2(ctypes.Structure):
    """What mallinfo2(3) returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


class IdleMemory:
    """Decides when free memory goes back to the system, from how much is in use at each look."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=LOOKS)
        self._highest = 0  # since memory was last given back

    def look(self, in_use: int) -> bool:
        """Whether to give memory back now. ``in_use`` is in bytes."""
        self._recent.append(in_use)
        self._highest = max(self._highest, in_use)
        recent = max(self._recent)
        if len(self._recent) < LOOKS or self._highest - recent < WORTH:
            return False
        self._highest = recent
        return True


def keep_buffers() -> bool:
    """Tell glibc to keep memory for buffers, and begin to give back what stays free.

    Returns whether it was there to be told (musl and others have no such word).
    """
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (AttributeError, OSError):
        return False
    told = bool(mallopt(_M_MMAP_THRESHOLD, OF_THEIR_OWN)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
    if told and hasattr(library, "mallinfo2"):  # glibc 2.33
        library.mallinfo2.restype = _Mallinfo2
        threading.Thread(target=_give_back, args=(library,), name="memory", daemon=True).start()
    return told


def _give_back(library: Any) -> None:
    idle = IdleMemory()
    while True:
        time.sleep(INTERVAL)
        if idle.look(library.mallinfo2().uordblks):
            library.malloc_trim(0)
