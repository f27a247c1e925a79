"""The copies that a mirror makes."""

from __future__ import annotations

from streamproxy.origins.mirror import Copy


async def test_tiny_pieces_that_wait_for_a_copy_cost_no_more_than_their_bytes() -> None:
    copy = Copy(1 << 20, b"/", has_body=True)
    numbers = [b"%05d" % number for number in range(20_000)]
    for number in numbers:
        copy.feed(number, False)
    assert len(copy._chunks) <= 7
    copy.feed(b"", True)
    assert await copy.receive() == {"type": "http.request", "body": b"".join(numbers), "more_body": False}
