"""A connection after a protocol switch: bytes in both directions until both have ended.

Theory of operation. Reading is paused until `ByteStream.start`. From then on the stream calls its `Receiver`:
`received` with bytes, `ended` when the peer has ended its direction, and `lost` once, when no direction can pass data
any more, for any reason. Each side may end its own direction and still receive (a half-close) if the transport supports
it; over TLS the end of one direction ends both. A stream whose directions have both ended closes itself; after `ended`,
it waits for the owner to call `write_eof` or `close`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class Receiver:
    """What a stream calls. A class, so that compiled code calls its methods without the interpreter's conventions."""

    __slots__ = ()

    def received(self, data: bytes) -> None:
        """Takes received bytes."""
        raise NotImplementedError

    def ended(self) -> None:
        """The peer has ended its direction."""
        raise NotImplementedError

    def lost(self) -> None:
        """No direction can pass data any more."""
        raise NotImplementedError


class Callbacks(Receiver):
    """A receiver made of functions."""

    __slots__ = ("_on_data", "_on_eof", "_on_lost")

    def __init__(
        self, on_data: Callable[[bytes], object], on_eof: Callable[[], object], on_lost: Callable[[], object]
    ) -> None:
        self._on_data = on_data
        self._on_eof = on_eof
        self._on_lost = on_lost

    def received(self, data: bytes) -> None:
        self._on_data(data)

    def ended(self) -> None:
        self._on_eof()

    def lost(self) -> None:
        self._on_lost()


class ByteStream:
    """One end of a tunnel. Servers implement it for the client's side, clients for the upstream's."""

    __slots__ = ()

    def start(self, receiver: Receiver) -> None:
        """Starts reading. Bytes received after the head of the upgrade come first.

        The receiver is not called before this method has returned.
        """
        raise NotImplementedError

    @property
    def pingable(self) -> bool:
        """Whether a ping that is written reaches the peer itself, and the peer's answer comes back."""
        return True

    def write(self, data: bytes) -> bool:
        """Sends data. Returns False if too much data waits for the peer; the caller then awaits `drained`.

        Does nothing and returns True once the stream is lost.
        """
        raise NotImplementedError

    def drained(self) -> Awaitable[None]:
        """Waits until `write` may continue, or the stream is lost."""
        raise NotImplementedError

    def set_write_limit(self, high: int) -> None:
        """Makes `write` return False once about ``high`` bytes wait for the peer."""
        raise NotImplementedError

    def pause(self) -> None:
        """Pauses reading. A lost stream is still reported at once."""
        raise NotImplementedError

    def resume(self) -> None:
        """Resumes reading."""
        raise NotImplementedError

    def write_eof(self) -> None:
        """Ends our direction after pending data was sent; the peer may still send."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends both directions after pending data was sent."""
        raise NotImplementedError

    def abort(self) -> None:
        """Ends the stream at once; pending data may be lost."""
        raise NotImplementedError
