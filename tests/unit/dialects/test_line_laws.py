"""Laws of the inspector of Ollama's lines: as those of `test_laws`."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.dialects.stream import LlmLines
from streamproxy.formats.inspector import Usage
from tests.unit.dialects.test_laws import (
    JUNK,
    NUMBERS,
    PIECES,
    SPACINGS,
    Said,
    failed,
    inside,
    loads,
    number,
    told,
    told_by,
    word,
)
from tests.unit.dialects.wire import line, ollama
from tests.unit.formats.splits import splits

BLANKS = st.sampled_from([b"", b"", b" ", b"\n"])
OLLAMA = st.one_of(
    st.builds(ollama, PIECES),
    st.builds(
        lambda done, count: ollama("", done=done, done_reason="stop", eval_count=count),
        st.sampled_from([True, False, 1]),
        NUMBERS,
    ),
    st.sampled_from([{"error": "x"}, {"a": 1}, {"model": "m", "response": "x", "done": False}]),
)


@st.composite
def line_streams(draw: st.DrawFn) -> bytes:
    """Lines of Ollama's API with others and junk among them, each in any spacing, and perhaps without its last end."""
    lines = draw(st.lists(st.one_of(OLLAMA, OLLAMA, OLLAMA, JUNK), max_size=8))
    stream = b"".join(
        one.encode() + b"\n" if isinstance(one, str) else line(one, draw(SPACINGS)) + draw(BLANKS) for one in lines
    )
    return stream[: len(stream) - draw(st.sampled_from([0, 0, 0, 1, 2, 9]))]


def reference_lines(stream: bytes) -> Said:
    """Decodes every line and reads the table of the contract."""
    said, known, ended = Said(), False, False
    for one in stream.split(b"\n"):
        if not one.strip():
            continue
        event = loads(one)
        if not known:
            known = event is not None and (
                (isinstance(event.get("model"), str) and isinstance(event.get("done"), bool))
                or isinstance(event.get("error"), str)
            )
            if not known:
                return Said(spoke=True)
        if event is not None:
            said, ended = after_line(said, ended, event)
    provider = "ollama" if known else ""
    return said._replace(provider=provider, incomplete=known and not ended and not said.failed)


def after_line(said: Said, ended: bool, event: dict[str, Any]) -> tuple[Said, bool]:
    if failed(event):
        return said._replace(failed=True), ended
    if event.get("done") is True:
        ended = True
        said = told(said, Usage(number(event.get("prompt_eval_count")), number(event.get("eval_count"))))
        said = said._replace(finish=word(event.get("done_reason")))
    says = inside(event, "message", "content") or event.get("response") or ended
    return said._replace(spoke=said.spoke or bool(says and not said.failed)), ended


@given(st.data(), line_streams())
def test_what_lines_say_is_what_each_of_them_says_under_any_split(data: st.DataObject, stream: bytes) -> None:
    split, by_line = LlmLines(), LlmLines()
    for chunk in data.draw(splits(stream)):
        split.feed(chunk)
    for one in stream.splitlines(keepends=True):
        by_line.feed(one)
    assert told_by(split) == told_by(by_line) == reference_lines(stream)
