"""Upstreams: named groups of endpoints, and how a request gets to one of them."""

from streamproxy.upstream.upstream import Endpoint, Opened, Upstream, UpstreamRequest

__all__ = ["Endpoint", "Opened", "Upstream", "UpstreamRequest"]
