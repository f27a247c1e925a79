"""Edits of a request's body can be made anew for another upstream: each time they are edits of what came."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.dialects.request import Peeked, apply_edits, model_edit, request_scanner, usage_edit

MODELS = st.text(max_size=8)


@given(MODELS, st.lists(st.one_of(st.none(), MODELS), min_size=1, max_size=4), st.booleans())
def test_a_body_is_rewritten_for_one_upstream_after_the_other(
    model: str, upstreams: list[str | None], model_first: bool
) -> None:
    members = [("model", model), ("stream", True)]
    body = json.dumps(dict(members if model_first else members[::-1])).encode()
    scanner = request_scanner()
    scanner.feed(body)
    assert scanner.finish() == "done"
    peeked, sent = Peeked(scanner.members), body
    for name in upstreams:
        edits = [] if name is None else [model_edit(scanner.members, name), usage_edit(scanner.members)]
        sent = peeked.rewrite(sent, edits)
        assert sent == apply_edits(body, edits)
    assert peeked.rewrite(sent, []) == body
