"""Advice about a valid configuration that may not do what the operator expects."""

from __future__ import annotations

import re
from collections.abc import Iterator

from streamproxy.config.model import Config
from streamproxy.config.values import Address, host_and_port

_COUNTED = ("max_streams", "max_streams_per_client", "queue")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_EVERY = frozenset({"0.0.0.0", "::"})  # compared, not listened on
_SHELL_NAME = re.compile(r"\$[A-Z][A-Z0-9_]*")


def advice(config: Config) -> Iterator[str]:
    """Yields one sentence for each remark."""
    yield from _counted_by_each(config)
    yield from _own_listeners(config)
    yield from _open_admin(config)
    yield from _shell_names(config)
    yield from _lone_paths(config)


def _counted_by_each(config: Config) -> Iterator[str]:
    workers = config.server.workers
    if workers == 1:
        return
    for route in config.routes:
        limits = [f"{name}: {value}" for name in _COUNTED if (value := getattr(route.limits, name))]
        if limits:
            yield (
                f"routes.{route.name}.limits: each of the {workers} workers counts its own {', '.join(limits)}, "
                f"so together they allow up to {workers} times as many"
            )


def _own_listeners(config: Config) -> Iterator[str]:
    sections = (("server.listen", config.server.listen), ("admin.listen", config.admin.listen))
    for name, upstream in config.upstreams.items():
        for endpoint in upstream.endpoints:
            if endpoint.socket is not None:
                continue
            host, port = host_and_port(endpoint.url)
            for key, addresses in sections:
                if any(_reaches(host, port, address) for address in addresses):
                    yield f"upstreams.{name}: {endpoint.url} is this proxy itself ({key}): give the backend's address"


def _reaches(host: str, port: int, address: Address) -> bool:
    """Whether a URL of this host and port leads to a listener on the same machine, as far as a name tells."""
    if address.path is not None or port != address.port:
        return False
    return host == address.host or (host in _LOOPBACK and address.host in _LOOPBACK | _EVERY)


def _open_admin(config: Config) -> Iterator[str]:
    if config.admin.token is not None:
        return
    for address in config.admin.listen:
        if address.path is None and address.host not in _LOOPBACK:
            yield (
                f"admin.listen: whoever reaches {address} sees all streams and can stop them: "
                "set admin.token, or listen on 127.0.0.1"
            )


def _shell_names(config: Config) -> Iterator[str]:
    for index, route in enumerate(config.routes):
        for name, value in route.request_headers.set.items():
            if config.is_from_outside(("routes", index, "request_headers", "set", name)):
                continue  # it may be a part of a secret
            if (found := _SHELL_NAME.search(value)) is not None:
                yield (
                    f"routes.{route.name}.request_headers.set.{name}: {found[0]} is sent as it stands; "
                    f"a variable is written ${{{found[0][1:]}}}"
                )


def _lone_paths(config: Config) -> Iterator[str]:
    for route in config.routes:
        path = route.path[0]
        if len(route.path) == 1 and path.endswith("/"):
            yield f"routes.{route.name}.path: {path} is this one path alone; a prefix is written {path}*"
