"""What a route's responses come from is decided when the configuration is loaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamproxy.app import create_app
from streamproxy.config import parse_config
from streamproxy.origins.reconnect import ReconnectOrigin
from streamproxy.origins.resume import ResumeOrigin
from streamproxy.origins.share import ShareOrigin
from streamproxy.origins.upstream import UpstreamOrigin


@pytest.mark.parametrize(
    ("keys", "origin"),
    [
        ({}, UpstreamOrigin),
        ({"reconnect": {}}, ReconnectOrigin),
        ({"reconnect": {}, "resume": {}}, ResumeOrigin),
        ({"reconnect": {}, "resume": {}, "share": {}}, ShareOrigin),
    ],
)
async def test_a_route_without_a_feature_has_nothing_of_it_on_the_way(keys: dict[str, Any], origin: type) -> None:
    beside = {"path": "/kept", "upstream": "http://127.0.0.1:1", "resume": {}, "share": {}, "reconnect": {}}
    routes = [beside, {"path": "/*", "upstream": "http://127.0.0.1:1", **keys}]
    app = create_app(parse_config(json.dumps({"routes": routes}), name="test"))
    _, candidate = app.deployment.candidates[1]
    assert type(candidate.plan.origin) is origin
    await app.aclose()
