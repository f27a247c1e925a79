"""A connection that has left HTTP behind: bytes in both directions, until both have ended.

Theory of operation. A stream begins with its reading held: what comes before `ByteStream.start` waits. Then it calls
``on_data`` for what comes, ``on_eof`` once the peer will send no more, and ``on_lost`` once, when nothing can pass in
either direction any more, whatever the reason. Either side may end its own direction and still take what the other
sends (a half-close), where the transport has a word for that; over TLS an end of one direction ends both. A stream
whose two directions have ended is closed by itself; one that got ``on_eof`` waits for the owner's `write_eof` or
`close`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class ByteStream:
    """One end of a tunnel. The servers implement it for the client's side, the clients for the upstream's."""

    __slots__ = ()

    def start(self, on_data: Callable[[bytes], None], on_eof: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Begin to read. Bytes that came behind the head of the upgrade are the first that ``on_data`` gets.

        None of the three is called before this has returned.
        """
        raise NotImplementedError

    @property
    def pingable(self) -> bool:
        """Whether a ping that is written reaches the peer itself, and the peer's answer comes back."""
        return True

    def write(self, data: bytes) -> bool:
        """Send. Returns False when more waits for the peer than may; the caller then awaits `drained`.

        Does nothing, and returns True, once the stream is lost.
        """
        raise NotImplementedError

    def drained(self) -> Awaitable[None]:
        """Wait until `write` may go on, or the stream is lost."""
        raise NotImplementedError

    def set_write_limit(self, high: int) -> None:
        """Let about ``high`` bytes wait for the peer before `write` returns False."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop reading. The peer is watched all the same: a lost stream is told at once."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read on."""
        raise NotImplementedError

    def write_eof(self) -> None:
        """Send no more, once what was written has gone; the peer may still send."""
        raise NotImplementedError

    def close(self) -> None:
        """End the stream in both directions, once what was written has gone."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the stream at once; what was written may be lost."""
        raise NotImplementedError
