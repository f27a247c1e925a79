"""The gate before a session: whole frames, whatever the cuts, and no floods."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.wire.http2.frames import NOTHING, PREFACE, RESET_BURST, FrameGate
from streamproxy.wire.http2.session import PROTOCOL_ERROR, SessionFailed


def gate(*, trusted: bool = False, max_block: int = 1 << 20, continuations: int = 100) -> FrameGate:
    made = FrameGate(max_block, continuations, 0.0, trusted)
    assert made.feed(PREFACE, 0.0) == PREFACE
    return made


def parse(data: bytes) -> list[Frame]:
    """The frames of these bytes, which must be whole."""
    frames = []
    while data:
        frame, size = Frame.parse_frame_header(memoryview(data[:9]))
        assert len(data) >= 9 + size
        frame.parse_body(memoryview(data[9 : 9 + size]))
        frames.append(frame)
        data = data[9 + size :]
    return frames


def joined(frames: list[Frame]) -> list[tuple[object, ...]]:
    """What frames say: a run of DATA frames of a stream is one."""
    said: list[tuple[object, ...]] = []
    for frame in frames:
        if isinstance(frame, DataFrame) and not frame.pad_length:
            ended = "END_STREAM" in frame.flags
            if said and said[-1][0] == "data" and said[-1][1] == frame.stream_id and not said[-1][3]:
                last: tuple[object, ...] = said.pop()
                said.append(("data", frame.stream_id, bytes(last[2]) + frame.data, ended))  # type: ignore[call-overload]
            else:
                said.append(("data", frame.stream_id, bytes(frame.data), ended))
        else:
            said.append((type(frame).__name__, frame.serialize()))
    return said


FRAMES = st.one_of(
    st.builds(
        lambda stream, data, end: DataFrame(stream, data, flags=["END_STREAM"] if end else []),
        st.sampled_from([1, 3]), st.binary(min_size=1, max_size=40), st.booleans(),
    ),
    st.builds(
        lambda data, pad: DataFrame(5, data, pad_length=pad, flags=["PADDED"]),
        st.binary(max_size=20), st.integers(1, 20),
    ),
    st.builds(lambda data: HeadersFrame(1, data, flags=["END_HEADERS"]), st.binary(max_size=30)),
    st.builds(lambda data: PingFrame(0, data), st.binary(min_size=8, max_size=8)),
    st.just(WindowUpdateFrame(1, window_increment=5)),
    st.just(SettingsFrame(0, settings={4: 1})),
)  # fmt: skip


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 60), max_size=60))
def test_whatever_the_cuts_whole_frames_that_say_the_same_come_out(frames: list[Frame], cuts: list[int]) -> None:
    data = PREFACE + b"".join(frame.serialize() for frame in frames)
    made = FrameGate(1 << 20, 100, 0.0)
    out = b""
    for cut in cuts:
        out += made.feed(data[:cut], 0.0) if data[:cut] else b""
        if out:
            parse(out[len(PREFACE) :])  # at every moment whole
        data = data[cut:]
    if data:
        out += made.feed(data, 0.0)
    assert out.startswith(PREFACE)
    assert joined(parse(out[len(PREFACE) :])) == joined(frames)
    assert made.since == NOTHING


@given(st.lists(FRAMES, max_size=80))
def test_the_parts_of_a_read_are_whole_frames_with_few_heads_each(frames: list[Frame]) -> None:
    made = FrameGate(1 << 20, 100, 0.0)
    read = made.feed(PREFACE + b"".join(frame.serialize() for frame in frames), 0.0)
    parts = made.parts(read)
    assert b"".join(parts) == read
    heads = [sum(type(frame) is HeadersFrame for frame in parse(part.removeprefix(PREFACE))) for part in parts]
    assert max(heads) <= 16
    assert len(parts) == max(1, -(-sum(heads) // 16))


def test_nothing_has_no_parts() -> None:
    made = gate()
    assert made.parts(made.feed(b"\0\0", 0.0)) == []


def test_the_data_of_a_frame_that_is_cut_passes_at_once() -> None:
    made = gate()
    whole = DataFrame(1, b"abcdef", flags=["END_STREAM"]).serialize()
    assert joined(parse(made.feed(whole[:12], 0.0))) == [("data", 1, b"abc", False)]
    assert joined(parse(made.feed(whole[12:], 0.0))) == [("data", 1, b"def", True)]


def test_a_frame_too_large_is_the_sessions_to_refuse() -> None:
    made = gate()
    begin = (1 << 20).to_bytes(3, "big") + b"\x01\x00\x00\x00\x00\x01"
    assert made.feed(begin, 0.0) == begin


FLOODS = {
    "PING": PingFrame(0, b"12345678"),
    "SETTINGS": SettingsFrame(0),
    "WINDOW_UPDATE": WindowUpdateFrame(0, window_increment=1),
    "PRIORITY": PriorityFrame(1, depends_on=3),
    "empty DATA": DataFrame(1, b""),
    "RST_STREAM": RstStreamFrame(1),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_after_a_thousand_frames(kind: str) -> None:
    made = gate()
    frame = FLOODS[kind].serialize()
    made.feed(frame * 990, 0.0)
    with pytest.raises(SessionFailed) as caught:
        made.feed(frame * 20, 0.0)
    assert caught.value.code == 0xB


@pytest.mark.parametrize("kind", FLOODS)
def test_as_many_in_the_course_of_time_are_none(kind: str) -> None:
    made = gate()
    frame = FLOODS[kind].serialize()
    for second in range(1000):
        made.feed(frame * 30, float(second))


def test_windows_for_what_was_sent_are_no_flood() -> None:
    made = gate()
    update = WindowUpdateFrame(1, window_increment=1).serialize() * 2
    for _ in range(100_000):
        made.earn(60)  # an event
        made.feed(update, 0.0)


def test_a_trusted_proxy_may_reset() -> None:
    made = gate(trusted=True)
    made.feed(RstStreamFrame(1).serialize() * 100_000, 0.0)


def test_resets_that_the_client_brings_about_count_too() -> None:
    made = gate()
    for _ in range(RESET_BURST - 1):
        made.broken_stream(0.0)
    with pytest.raises(SessionFailed):
        made.broken_stream(0.0)


def test_a_block_of_headers_is_bounded_in_bytes() -> None:
    made = gate(max_block=1000)
    made.feed(HeadersFrame(1, b"x" * 500).serialize(), 0.0)
    made.feed(ContinuationFrame(1, b"x" * 500).serialize(), 0.0)
    with pytest.raises(SessionFailed):
        made.feed(ContinuationFrame(1, b"x").serialize(), 0.0)


def test_and_in_frames() -> None:
    made = gate(continuations=10)
    made.feed(HeadersFrame(1, b"x").serialize(), 0.0)
    made.feed(ContinuationFrame(1, b"x").serialize() * 10, 0.0)
    with pytest.raises(SessionFailed):
        made.feed(ContinuationFrame(1, b"x").serialize(), 0.0)


def test_since_when_something_is_not_whole() -> None:
    made = FrameGate(1 << 20, 100, 1.0)
    assert made.since == 1.0
    made.feed(PREFACE, 2.0)
    assert made.since == NOTHING
    head = HeadersFrame(1, b"x" * 10).serialize()
    made.feed(head[:5], 3.0)
    assert made.since == 3.0
    made.feed(head[5:], 4.0)  # the frame is whole, the block of headers is not
    assert made.since == 4.0
    end = ContinuationFrame(1, b"x", flags=["END_HEADERS"]).serialize()
    made.feed(end[:5], 6.0)
    assert made.since == 4.0
    made.feed(end[5:], 7.0)
    assert made.since == NOTHING
    data = DataFrame(1, b"abc").serialize()
    made.feed(data[:10], 8.0)
    assert made.since == NOTHING  # its data has passed


def heads(*streams: int) -> bytes:
    return b"".join(HeadersFrame(stream, b"\x82", flags=["END_HEADERS"]).serialize() for stream in streams)


def test_a_stream_below_one_that_was_opened_ends_the_connection() -> None:
    one = gate()
    one.feed(heads(1, 9), 0.0)
    one.feed(heads(9, 1), 0.0)  # trailers
    with pytest.raises(SessionFailed) as caught:
        one.feed(heads(5), 0.0)
    assert caught.value.code == PROTOCOL_ERROR


def test_an_upstream_may_answer_in_any_order() -> None:
    one = FrameGate(1000, 8, 0.0, preface=False)
    assert one.feed(heads(9, 5, 1, 7), 0.0) == heads(9, 5, 1, 7)
