"""Builds an upstream and its endpoints from the configuration."""

from __future__ import annotations

from urllib.parse import urlsplit

from streamproxy.client.base import Client
from streamproxy.client.build import ClientFactory
from streamproxy.config import model
from streamproxy.config.values import host_and_port
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.names import Name, authority_of
from streamproxy.upstream.sessions import Sessions, SessionTable
from streamproxy.upstream.upstream import Upstream


def build_upstream(
    name: str, upstream: model.Upstream, shared: Client | None, sessions: SessionTable | None = None
) -> Upstream:
    """Returns an upstream with its endpoints. ``shared`` is a client of the embedding program that is used for all.

    Such a client resolves names itself, so ``resolve`` has no effect with it. ``sessions`` is the table of sticky
    sessions.
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
    """Returns a name that has one endpoint for each address. Host, SNI and certificate checks keep using the name."""
    scheme = urlsplit(endpoint.url).scheme
    host, port = host_and_port(endpoint.url)

    def build(address: str) -> Endpoint:
        url = f"{scheme}://{authority_of(address, port)}"
        return _endpoint(endpoint, url, make(url, None, server_name=host))

    return Name(host, port, itself=_endpoint(endpoint, endpoint.url, make(endpoint.url, None)), build=build)
