"""From configuration to an upstream with its endpoints."""

from __future__ import annotations

from urllib.parse import urlsplit

from streamproxy.client.base import Client
from streamproxy.client.build import ClientFactory
from streamproxy.config import model
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.names import Name, authority_of
from streamproxy.upstream.sessions import Sessions, SessionTable
from streamproxy.upstream.upstream import Upstream


def build_upstream(
    name: str, upstream: model.Upstream, shared: Client | None, sessions: SessionTable | None = None
) -> Upstream:
    """An upstream with its endpoints; ``shared`` reaches them all if the embedding program brought its own client.

    A client of the program's own looks names up itself, so ``resolve`` is left to it. ``sessions`` is where sessions
    that stick to an endpoint are remembered.
    """
    make = ClientFactory(upstream, shared)
    fixed: list[Endpoint] = []
    names: list[Name] = []
    for one in upstream.endpoints:
        if one.resolve == "each" and shared is None:
            names.append(_name(one, make))
        else:
            fixed.append(_endpoint(one, one.url, make(one.url, one.socket)))
    sticky = None
    if upstream.sticky is not None:
        sticky = Sessions(sessions or SessionTable(), name, upstream.sticky.learn, upstream.sticky.ttl)
    return Upstream(name, fixed, upstream, names=names, sessions=sticky)


def _endpoint(endpoint: model.Endpoint, url: str, client: Client) -> Endpoint:
    authority = urlsplit(endpoint.url).netloc.encode()
    return Endpoint(url, client, authority=authority, weight=endpoint.weight)


def _name(endpoint: model.Endpoint, make: ClientFactory) -> Name:
    """A name whose every address is an endpoint; Host, SNI and the certificate's name stay the name's."""
    parts = urlsplit(endpoint.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def build(address: str) -> Endpoint:
        url = f"{parts.scheme}://{authority_of(address, port)}"
        return _endpoint(endpoint, url, make(url, None, server_name=host))

    return Name(host, port, itself=_endpoint(endpoint, endpoint.url, make(endpoint.url, None)), build=build)
