"""Reads single keys from a terminal, and restores its settings afterwards."""

from __future__ import annotations

import codecs
import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

# The sequences of keys without a character, in both cursor-key modes (ECMA-48, DEC).
SEQUENCES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\x03": "ctrl-c",
}


@contextmanager
def keyboard(fd: int) -> Iterator[None]:
    """A context in which the terminal passes each key at once without echo, including Ctrl-C and Ctrl-Z."""
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd, termios.TCSANOW)
    mode = termios.tcgetattr(fd)
    mode[3] &= ~termios.ISIG
    termios.tcsetattr(fd, termios.TCSANOW, mode)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Keys:
    """Converts terminal input to keys. Unknown sequences are ignored."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> list[str]:
        """Returns the keys that can be read now; ``ctrl-c`` if the terminal is closed."""
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            data = b""
        return split(self._decoder.decode(data)) if data else ["ctrl-c"]


def split(characters: str) -> list[str]:
    """Splits characters into keys."""
    keys = []
    while characters:
        length = _length(characters)
        name = characters[:length]
        if name in SEQUENCES:
            keys.append(SEQUENCES[name])
        elif length == 1:
            keys.append(name)
        characters = characters[length:]
    return keys


def _length(characters: str) -> int:
    """Returns the number of characters of the first key: several for an escape sequence (ECMA-48 section 5.4)."""
    if characters[0] != "\x1b" or len(characters) < 2 or characters[1] not in "[O":
        return 1
    if characters[1] == "O":
        return 3
    for number, character in enumerate(characters[2:], 3):
        if "@" <= character <= "~":
            return number
    return len(characters)
