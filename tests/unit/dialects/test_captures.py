"""What inference engines send says the same in whatever pieces it comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.dialects.protocols import DIALECTS
from tests.captures import CAPTURES, HERE, Capture
from tests.unit.formats.splits import splits


@given(st.data(), st.sampled_from(CAPTURES))
def test_any_split_says_the_same(data: st.DataObject, capture: Capture) -> None:
    dialect = DIALECTS["auto"].for_path(capture.path.encode())
    inspector = dialect.inspector(200, capture.media.encode())
    assert inspector is not None
    for chunk in data.draw(splits(capture.body)):
        inspector.feed(chunk)
    incomplete = inspector.finish()
    assert (incomplete is not None) == (capture.end == "upstream_truncated")
    assert str(inspector.failure or "").endswith(capture.failure)
    assert (inspector.failure is not None) == bool(capture.failure)
    assert (inspector.model, inspector.finish_reason, inspector.usage) == (capture.model, capture.finish, capture.usage)


def test_each_file_is_listed_with_its_source() -> None:
    readme = (HERE / "README.md").read_text()
    engines = {path.name for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    listed = {capture.file for capture in CAPTURES}
    for engine in engines:
        assert f"`{engine}/" in readme
        streams = [*(HERE / engine).glob("*.sse"), *(HERE / engine).glob("*.ndjson")]
        assert {f"{engine}/{path.name}" for path in streams} <= listed
