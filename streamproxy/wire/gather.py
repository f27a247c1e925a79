"""Whether a transport may be given several strings of bytes in one call.

In CPython 3.12.0 to 3.12.8, 3.13.0 and 3.13.1, ``writelines`` of asyncio's own transports never tells its protocol to
pause (CVE-2024-12254): a peer that does not read would cost unbounded memory. There the strings are joined first.
"""

from __future__ import annotations

import sys
from typing import Final


def pauses(version: tuple[int, ...]) -> bool:
    """Return whether ``writelines`` keeps to the write buffer limit in this CPython (major, minor, micro)."""
    return not ((3, 12) <= version < (3, 12, 9) or (3, 13) <= version < (3, 13, 2))


GATHERS: Final = pauses(sys.version_info[:3])
