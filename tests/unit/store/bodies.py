"""Bodies of streams for hypothesis, and what a client sees of them."""

from __future__ import annotations

import re

from hypothesis import strategies as st

LINES = st.sampled_from(
    [b"data: x", b"data", b"data:y", b"event: e", b": note", b"retry: 5", b"database: z", b"\xef\xbb\xbfdata: no"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def event_streams(draw: st.DrawFn, ids: bool = True) -> bytes:
    """Events of any lines and line ends, a byte order mark perhaps, and perhaps an unfinished rest."""
    lines = (
        st.one_of(LINES, st.just(b""), st.sampled_from([b"id: 7", b"id"])) if ids else st.one_of(LINES, st.just(b""))
    )
    out = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    for line in draw(st.lists(lines, max_size=24)):
        out += line + draw(ENDS)
    return out + draw(st.sampled_from([b"", b"data: unfinis", b"d", b":"]))


line_streams = st.lists(st.sampled_from([b"{}", b"\n", b'{"a":', b"1}\n", b"\r\n"]), max_size=40).map(b"".join)


@st.composite
def cuts(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """The bytes in pieces, every byte one perhaps, and often cut inside of a CR LF."""
    if draw(st.integers(0, 9)) == 0:
        return [whole[at : at + 1] for at in range(len(whole))]
    within = [match.start() + 1 for match in re.finditer(rb"\r\n", whole)]
    anywhere = st.integers(0, len(whole))
    places = sorted(draw(st.lists(anywhere | st.sampled_from(within) if within else anywhere, max_size=8)))
    return [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


def joined(*pieces: bytes) -> bytes:
    """Pieces of one body as a client has them, with CR for each CR LF.

    A client that was cut between a CR and its LF has had the event, and may not get the LF. An LF that does follow
    belongs to a blank line of its own.
    """
    return b"".join(piece.replace(b"\r\n", b"\r") for piece in pieces)


def lines_of_events(rest: bytes) -> list[bytes]:
    """Behind the last event: the lines of one that has no blank line, without comments."""
    last: list[bytes] = []
    *lines, unended = re.split(rb"\r\n|\n|\r", rest.removeprefix(b"\xef\xbb\xbf"))
    for line in (*lines, *([unended] if unended else [])):
        last = [*last, line] if line else []
    return [line for line in last if not line.startswith(b":")]


def blocks(stream: bytes, first: bool = True) -> list[list[bytes]]:
    """The events that a client dispatches: the lines of every block that has data, without comments.

    ``first`` says whether it is the beginning of the body, where a byte order mark counts for nothing.
    """
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf") if first else stream)[:-1]
    events: list[list[bytes]] = []
    block: list[bytes] = []
    for line in lines:
        if not line:
            if any(field.partition(b":")[0] == b"data" for field in block):
                events.append(block)
            block = []
        elif not line.startswith(b":"):
            block.append(line)
    return events
