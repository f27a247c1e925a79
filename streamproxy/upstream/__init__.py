"""Upstreams: named groups of endpoints, which of them are available, and which one is picked."""

from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.upstream import Upstream

__all__ = ["Endpoint", "Upstream"]
