"""Makes the C library's allocator keep memory, and return it later.

The event loop reads up to 250 KiB at once into an object of this size, which is freed after it was relayed. By default
glibc requests memory of this size from the kernel each time, or returns it as soon as it is free. In both cases the
kernel clears every page again, which more than doubles the cost of a download. So the allocator is told to keep it.

It would then keep all of it forever, because the memory that is free after a flood lies between memory in use. So a
thread checks periodically how much is in use. Once this has stayed well below its maximum for several checks, the free
pages are returned to the system. Memory that is used and freed repeatedly does not lead to this.
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

KEPT: Final = 4 * 2**20  # bytes of free memory to keep at the top of the heap
OF_THEIR_OWN: Final = 2**20  # blocks of this many bytes and more are mapped separately

LOOKS: Final = 3
INTERVAL: Final = 1.5  # seconds between two checks
WORTH: Final = 4 * 2**20  # the minimum bytes to return


class _Mallinfo2(ctypes.Structure):
    """The result of mallinfo2(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


class IdleMemory:
    """Decides when to return free memory to the system, by how much is in use at each check."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=LOOKS)
        self._highest = 0  # since memory was last returned

    def look(self, in_use: int) -> bool:
        """Whether to return memory now. ``in_use`` is in bytes."""
        self._recent.append(in_use)
        self._highest = max(self._highest, in_use)
        recent = max(self._recent)
        if len(self._recent) < LOOKS or self._highest - recent < WORTH:
            return False
        self._highest = recent
        return True


def keep_buffers() -> bool:
    """Makes glibc keep memory for buffers, and starts to return memory that stays free.

    Returns False if the C library does not support this, such as musl.
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
