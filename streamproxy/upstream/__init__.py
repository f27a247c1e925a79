"""Upstreams: named groups of endpoints, and how a request gets to one of them."""

from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.opened import Opened, UpstreamRequest
from streamproxy.upstream.upstream import Upstream

__all__ = ["Endpoint", "Opened", "Upstream", "UpstreamRequest"]
