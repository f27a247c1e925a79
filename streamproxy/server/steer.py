"""How likely each of several listeners on one port is to get a new connection.

Without more said it picks by a hash of both addresses, which is as even as throwing dice. A program of classic BPF that
any user may attach answers with the number of a listener instead (socket(7), SO_ATTACH_REUSEPORT_CBPF). The kernel
numbers the listeners of a port in the order in which they began to listen; when one closes, the last takes its number.
Where an answer names no listener, the kernel goes back to its hash, so that no connection is lost to a wrong answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final

# asm-generic/socket.h
_ATTACH: Final = 51
_DETACH: Final = 68
# linux/bpf_common.h and linux/filter.h
_LOAD: Final = 0x20
_MODULO: Final = 0x94
_JUMP_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_RANDOM: Final = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_MOST: Final = 1000  # listeners: a program has at most 4,096 steps


def _program(weights: Sequence[int]) -> bytes:
    steps = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, sum(weights))]
    for number, bound in enumerate(itertools.accumulate(weights)):
        steps += [(_JUMP_IF_AT_LEAST, 1, 0, bound), (_RETURN, 0, 0, number)]
    steps.append((_RETURN, 0, 0, len(weights)))  # never reached, but a program has to end
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def steer(listener: socket.socket, weights: Sequence[int]) -> None:
    """Have each listener on the port of this one get connections in proportion to its weight, until the next call.

    There is a weight for each, in the kernel's order, and one at least is not 0. Where the system can't do it, its own
    choice stays.
    """
    if sys.platform != "linux" or len(weights) > _MOST:
        return
    steps = _program(weights)
    held = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("@HP", len(steps) // 8, ctypes.addressof(held))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH, program)


def release(listener: socket.socket) -> None:
    """Leave the choice to the kernel again."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
