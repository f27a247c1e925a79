"""Whether a silent connection is alive, without I/O.

Theory of operation. While streams are open, a connection that has brought no byte for ``silence`` seconds is asked for
a sign of life by PING (RFC 9113 section 6.7). Any byte is one: it need not be the answer. Without one within ``answer``
seconds the connection is dead. The owner stores the time of each read and has one timer, which calls `look`.
A look that comes late means that the process was held up: the answer may have come, and has yet to be read, so it looks
again once before the connection is dead.
"""

from __future__ import annotations

from typing import Final

from streamproxy.exchange.timer import LATE, SECOND_LOOK

SILENCE: Final = 15.0  # seconds without a byte while streams are open, until a PING
ANSWER: Final = 15.0  # seconds for the answer

ASK: Final = 0.0
DEAD: Final = -1.0
_NOT_ASKED: Final = -1.0


class Liveness:
    """The silence of one connection; times are the loop's, in seconds. The owner sets ``last_read`` with each read."""

    __slots__ = ("_answer", "_asked_at", "_silence", "last_read")

    def __init__(self, silence: float, answer: float) -> None:
        self._silence = silence
        self._answer = answer
        self._asked_at = _NOT_ASKED
        self.last_read = 0.0

    def begin(self) -> float:
        """The first stream is open: returns the seconds after which to look."""
        self._asked_at = _NOT_ASKED
        return self._silence

    def look(self, now: float) -> float:
        """Returns the seconds after which to look again, `ASK` to send a PING first (and call `asked`), or `DEAD`."""
        if self.last_read >= self._asked_at:
            self._asked_at = _NOT_ASKED
        if self._asked_at != _NOT_ASKED:
            left = self._asked_at + self._answer - now
            if left > 0.0:
                return left
            if left >= -LATE:
                return DEAD
            self._asked_at = now + SECOND_LOOK - self._answer
            return SECOND_LOOK
        left = self.last_read + self._silence - now
        return left if left > 0.0 else ASK

    def asked(self, now: float) -> float:
        """The PING is out: returns the seconds after which to look again."""
        self._asked_at = now
        return min(self._silence, self._answer)
