"""WebSocket (RFC 6455) for a proxy: the rules of the handshake, the boundaries of frames, and control frames.

Theory of operation of `FrameWalker`. It follows the bytes of one direction, in reads of any size, through two states::

    HEADER ──the header is whole──▶ PAYLOAD ──its last byte──▶ HEADER

It holds at most 13 bytes of an incomplete header and nothing of a payload, and does not undo masks. It counts messages
at the end of their last frame and notices a Close frame. If the bytes are not valid frames (a reserved opcode, a mask
where none is allowed), it gives up: ``lost`` is set, and it reports nothing more. It does not decide whether bytes are
forwarded.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION: Final = b"13"

PING: Final = 9
CLOSE: Final = 8

GOING_AWAY: Final = 1001
SERVICE_RESTART: Final = 1012  # in IANA's registry of close codes

_LONGEST_HEADER: Final = 14
_MOST_CONTROL: Final = 125  # bytes of a control frame's payload (RFC 6455 section 5.5)


def accept_of(key: bytes) -> bytes:
    """Returns the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def control_frame(opcode: int, payload: bytes = b"", mask: bytes = b"") -> bytes:
    """Returns a control frame. ``mask`` is the four-byte mask of a client's frame; empty for a server's frame.

    Raises ValueError if the payload is over 125 bytes.
    """
    size = len(payload)
    if size > _MOST_CONTROL:
        raise ValueError("the payload of a control frame is over 125 bytes")
    if not mask:
        return bytes((0x80 | opcode, size)) + payload
    masked = bytes([byte ^ mask[at & 3] for at, byte in enumerate(payload)])
    return bytes((0x80 | opcode, 0x80 | size)) + mask + masked


def close_payload(code: int) -> bytes:
    """Returns the payload of a Close frame with this code and no reason."""
    return code.to_bytes(2, "big")


def is_message(data: bytes, masked: bool) -> bool:
    """Whether a read that begins between messages is one message in one frame and nothing else, as most are.

    A walker that does not see it stands between messages as before. A frame of 64 KiB or more is not recognised.
    """
    size = len(data)
    if size < 4:
        return False
    kind = data[0] & 0x8F
    if kind != 0x81 and kind != 0x82:
        return False
    length, header = data[1], 2
    if masked:
        length -= 0x80
        header = 6
    if length == 126:
        length = data[2] << 8 | data[3]
        header += 2
    elif length > 126 or length < 0:
        return False
    return size == header + length


class FrameWalker:
    """Follows the frames of one direction. ``masked`` means that they come from a client (RFC 6455 section 5.1).

    ``messages`` counts the complete messages, ``closed`` is set by a Close frame, and ``lost`` by bytes that are not
    frames.
    """

    __slots__ = (
        "_ends_message",
        "_fragmented",
        "_head",
        "_left",
        "_masked",
        "_opcode",
        "closed",
        "lost",
        "messages",
    )

    def __init__(self, *, masked: bool) -> None:
        self.messages = 0
        self.closed = False
        self.lost = False
        self._masked = masked
        self._head = b""  # the beginning of an incomplete header
        self._left = 0  # remaining bytes of the payload
        self._opcode = 0
        self._ends_message = False
        self._fragmented = False  # a message is incomplete

    @property
    def between_frames(self) -> bool:
        """Whether another frame may be inserted here."""
        return not self._left and not self._head and not self.lost

    @property
    def between_messages(self) -> bool:
        """Whether a new message may begin here."""
        return not self._fragmented and self.between_frames

    def feed(self, data: bytes) -> None:
        """Follows the bytes of one read."""
        self._walk(data, False)

    def feed_frame(self, data: bytes) -> int:
        """Follows bytes up to the end of the frame they belong to; returns how many bytes that is."""
        return self._walk(data, True)

    def _walk(self, data: bytes, one: bool) -> int:
        at, size = 0, len(data)
        while at < size and not self.lost:
            if not self._left:
                if size - at >= _LONGEST_HEADER and not self._head:
                    at += self._begin(data, at)
                else:
                    at += self._enter(data[at : at + _LONGEST_HEADER])
                if self._head or self.lost:
                    break
            left = self._left
            if size - at < left:
                self._left = left - (size - at)
                return size
            at += left
            self._left = 0
            self._leave()
            if one:
                return at
        return size

    def _enter(self, piece: bytes) -> int:
        """Parses a header that begins or continues in ``piece``; returns how many of these bytes it takes."""
        before = len(self._head)
        head = self._head + piece if before else piece
        need = 2
        if len(head) >= 2:
            short = head[1] & 0x7F
            need = 2 + (2 if short == 126 else 8 if short == 127 else 0) + (4 if head[1] & 0x80 else 0)
        if len(head) < need:
            self._head = head
            return len(piece)
        self._head = b""
        return self._begin(head, 0) - before

    def _begin(self, data: bytes, at: int) -> int:
        """Read the whole header that stands at ``at``; returns its size."""
        first, second = data[at], data[at + 1]
        opcode, final, length = first & 0x0F, first & 0x80 != 0, second & 0x7F
        if opcode >= CLOSE:
            good = opcode <= 10 and final and length <= _MOST_CONTROL
        else:
            good = opcode <= 2 and self._fragmented == (opcode == 0)
            self._fragmented = not final
        size = 2
        if length == 126:
            length = data[at + 2] << 8 | data[at + 3]
            size = 4
        elif length == 127:
            length = int.from_bytes(data[at + 2 : at + 10], "big")
            size = 10
        masked = second & 0x80 != 0
        self.lost = not good or self._masked != masked or length >= 1 << 63
        self._opcode = opcode
        self._ends_message = final and opcode < CLOSE
        self._left = 0 if self.lost else length
        return size + 4 if masked else size

    def _leave(self) -> None:
        """Ends the frame."""
        if self._ends_message:
            self.messages += 1
        elif self._opcode == CLOSE:
            self.closed = True
