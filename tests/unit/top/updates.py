"""Updates as an admin listener sends them."""

from __future__ import annotations

from typing import Any

from streamproxy.admin.overview import Overviews
from streamproxy.admin.update import Update, View
from tests.unit.admin.proxy import OneEndpoint, OneUpstream, SeenProxy


def a_proxy() -> SeenProxy:
    """One upstream with two endpoints, one of them down; no streams."""
    proxy = SeenProxy()
    down = OneEndpoint("http://127.0.0.1:8001")
    down.up = False
    proxy.upstreams.append(OneUpstream("llm", OneEndpoint("http://127.0.0.1:8000"), down))
    proxy.metrics.declare([("chat", "llm"), ("files", "llm")])
    return proxy


async def update_of(proxy: SeenProxy, **changes: Any) -> Update:
    """What a viewer is shown of a proxy."""
    overviews = Overviews(proxy)
    update: Update = {**overviews.update(await overviews.look(), View()), **changes}  # type: ignore[typeddict-item]  # any key
    return update
