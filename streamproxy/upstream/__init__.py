"""Upstreams: named groups of endpoints, their health, and the balancing policies that pick one."""

from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.upstream import Upstream

__all__ = ["Endpoint", "Upstream"]
