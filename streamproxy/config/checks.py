"""Checks that concern several keys at once: names, unreachable routes, files.

Each check reads only the part of the file that it needs, so a mistake elsewhere does not hide its findings.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from streamproxy.config.certificates import unusable_authorities, unusable_pair
from streamproxy.config.document import Document, Finding
from streamproxy.config.fields import field_at, is_default
from streamproxy.config.model import Admin, Config, Route, Server, default_name
from streamproxy.config.principals import ONE_OF_SEVERAL, nobodies, unnamed_clients
from streamproxy.config.redact import Path
from streamproxy.config.references import why_unreadable
from streamproxy.config.units import is_off
from streamproxy.config.values import Address, same_origin
from streamproxy.wire.target import normal_path

_FILES = (
    ("server", "tls", "cert"),
    ("server", "tls", "key"),
    ("server", "tls", "client_ca"),
    ("upstreams", "*", "tls", "ca"),
    ("upstreams", "*", "tls", "cert"),
    ("upstreams", "*", "tls", "key"),
    ("routes", "*", "auth", "bearer", "tokens", "*", "file"),
    ("routes", "*", "auth", "jwt", "jwks_file"),
)
_TLS = {("server", "tls"): "client_ca", ("upstreams", "*", "tls"): "ca"}  # and their key for CA certificates
_NOT_OF_EVENTS = (
    *("share", "reconnect", "resume", "fallback", "retry", "mirror"),
    *("rewrite", "usage", "request_headers", "compression"),
    *("timeouts.available", "timeouts.connect", "timeouts.first_event", "timeouts.request"),
)
_CONDITIONS = ("path", "methods", "hosts", "headers", "models")


def suggest(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """Returns the end of a message about an unknown word: the most similar known word, or the list of all of them."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(words) or 'none'}"


def find(document: Document) -> Iterator[Finding]:
    """Yields every problem between the keys of a file."""
    yield from _unknown_upstreams(document)
    yield from _double_endpoints(document)
    yield from _double_names(document)
    yield from _dead_routes(document)
    yield from nobodies(document)
    yield from _kept_streams(document)
    yield from _tokens(document)
    yield from _get_only(document)
    yield from _redis_upstreams(document)
    yield from _redis_beside_others(document)
    yield from _listeners(document)
    yield from _one_admin(document)
    yield from _missing_files(document)
    yield from _certificates(document)
    yield from _engine(document)


def _unknown_upstreams(document: Document) -> Iterator[Finding]:
    upstreams = document.get(("upstreams",))
    names = list(upstreams) if isinstance(upstreams, dict) else []
    for path in document.in_routes("upstream", *ONE_OF_SEVERAL, "mirror.upstream"):
        name = document.get(path)
        if isinstance(name, str) and "://" not in name and name not in names:
            advice = suggest(name, names, otherwise="a URL begins with http://, and the upstreams are:")
            yield Finding(path, f"is not the name of an upstream, nor a URL; {advice}")


def _double_endpoints(document: Document) -> Iterator[Finding]:
    """Metrics, logs and ``hash`` identify the endpoints of an upstream by their URLs, so a URL may occur only once."""
    first: dict[tuple[Path, str], int] = {}
    for path in document.match(("upstreams", "*", "endpoints", "*")):
        endpoint = document.get(path)
        where = (*path, "url") if isinstance(endpoint, dict) else path
        try:
            known = (path[:2], same_origin(document.get(where)))
        except ValueError:
            continue
        line = document.position(where).line
        if known in first:
            advice = "another host in the URL, which the socket does not need" if _has_socket(endpoint) else "weight"
            yield Finding(where, f"is the endpoint on line {first[known]} already; use {advice}")
        else:
            first[known] = line


def _has_socket(endpoint: object) -> bool:
    return isinstance(endpoint, dict) and not is_off(endpoint.get("socket"))


def _kept_streams(document: Document) -> Iterator[Finding]:
    """Checks the keys that ``resume`` depends on."""
    workers = document.get(("server", "workers"))
    for path in document.match(("routes", "*", "resume")):
        resume = document.get(path)
        if is_off(resume) or not isinstance(resume, dict):
            continue
        if str(workers or 1) != "1" and resume.get("store", "memory") == "memory":
            yield Finding(path, "keeps streams in the memory of one of several workers: set store to redis://HOST:PORT")
        if resume.get("ids") in ("on", True) and document.get((*path[:-1], "protocol")) == "gemini":
            yield Finding((*path, "ids"), "is on, and the SDK of gemini fails on ids")
        share = document.get((*path[:-1], "share"))
        key = share.get("key") if isinstance(share, dict) else None
        if isinstance(key, list) and "principal" not in key:
            yield Finding(
                (*path[:-1], "share", "key"),
                "leaves out principal, and with resume a stream has one owner: add principal",
            )


def _get_only(document: Document) -> Iterator[Finding]:
    """Finds keys that only apply to GET on routes that do not accept GET."""
    for name in ("share", "reconnect"):
        for path in document.match(("routes", "*", name)):
            methods = document.get((*path[:-1], "methods"))
            if not is_off(document.get(path)) and isinstance(methods, list) and methods and "GET" not in methods:
                yield Finding(path, "is for GET requests, and the route's methods leave GET out", at_key=True)


def _redis_upstreams(document: Document) -> Iterator[Finding]:
    """Checks routes to upstreams of Redis events: the keys they require, and the keys that do not apply to them."""
    for path in document.match(("routes", "*", "upstream")):
        name = document.get(path)
        redis = document.get(("upstreams", name, "redis")) if isinstance(name, str) else None
        if is_off(redis) or not isinstance(redis, dict):
            continue
        route = path[:-1]
        for keys in (key.split(".") for key in _NOT_OF_EVENTS):
            value = document.get((*route, *keys))
            if value is not None and not is_default(field_at(Config, ("routes", "*", *keys)), value):
                yield Finding((*route, *keys), "is not for an upstream of events from Redis", at_key=True)
        channel = redis.get("channel")
        if isinstance(channel, str) and "{principal}" in channel:
            yield from unnamed_clients(document, route)


def _redis_beside_others(document: Document) -> Iterator[Finding]:
    """Events from Redis are all that a route has: they are neither shared out nor fallen back to."""
    for path in document.in_routes(*ONE_OF_SEVERAL, "mirror.upstream"):
        name = document.get(path)
        if isinstance(name, str) and not is_off(document.get(("upstreams", name, "redis"))):
            yield Finding(path, "is an upstream of events from Redis, which has to be the only one of its route")


def _double_names(document: Document) -> Iterator[Finding]:
    first: dict[object, int] = {}
    for path in document.match(("routes", "*")):
        route, place = document.get(path), path[-1]
        if not isinstance(route, dict) or not isinstance(place, int):  # routes that are a mapping have no place
            continue
        name = route.get("name") or default_name(route)
        if not isinstance(name, str):
            continue
        if name in first:
            line = document.position(("routes", first[name])).line
            given = "name" in route
            advice = "" if given else "; give the route a name, since its path is that of the other one"
            yield Finding(
                (*path, "name" if given else "path"), f"is the name of the route on line {line} already{advice}"
            )
        else:
            first[name] = place


def _valid_route(raw: object) -> Route | None:
    """Returns a route that has only its conditions, or None if they are invalid."""
    if not isinstance(raw, dict):
        return None
    conditions = {key: raw[key] for key in _CONDITIONS if key in raw}
    try:
        return Route.model_validate(conditions | {"name": "x", "upstream": "x"})
    except ValidationError:
        return None


def _dead_routes(document: Document) -> Iterator[Finding]:
    earlier: list[tuple[int, Route]] = []
    for path in document.match(("routes", "*")):
        route = _valid_route(document.get(path))
        if route is None:
            continue
        takers = _takers(route, earlier)
        if takers:
            first = f"route on line {takers[0]} comes first and takes all of it"
            if len(takers) > 1:
                first = f"routes on lines {_and(takers)} come first and take all of it"
            yield Finding((*path, "path"), f"can never match: the {first}")
        earlier.append((document.position(path).line, route))


def _and(lines: list[int]) -> str:
    return f"{', '.join(str(line) for line in lines[:-1])} and {lines[-1]}"


def _takers(route: Route, earlier: list[tuple[int, Route]]) -> list[int]:
    """Returns the lines of the earlier routes that together match everything a route could match, or no lines.

    A route is split into combinations of one path, method and host, and each combination must be covered by a single
    earlier route. A combination that only several routes cover together is not reported: missing an unreachable route
    is better than refusing one that is needed.
    """
    takers: set[int] = set()
    for path, method, host in itertools.product(route.paths, route.methods or (None,), route.hosts or (None,)):
        line = next((line for line, other in earlier if _covers(other, route, path, method, host)), None)
        if line is None:
            return []
        takers.add(line)
    return sorted(takers)


def _covers(other: Route, route: Route, path: str, method: str | None, host: str | None) -> bool:
    return (
        _covers_path(other, path)
        and _covers_method(other, method)
        and _covers_host(other, host)
        and _covers_headers(other, route)
        and _covers_models(other, route)
    )


def _covers_path(other: Route, path: str) -> bool:
    wanted = normal_path(path.encode())
    for pattern in (normal_path(each.encode()) for each in other.paths):
        if pattern == wanted:
            return True
        if pattern.endswith(b"/*") and wanted.removesuffix(b"*").startswith(pattern[:-1]):
            return True
    return False


def _covers_method(other: Route, method: str | None) -> bool:
    if not other.methods:
        return True
    return method in other.methods or (method == "HEAD" and "GET" in other.methods)


def _covers_host(other: Route, host: str | None) -> bool:
    if not other.hosts:
        return True
    if host is None:
        return False
    wanted = host.lower()
    return any(
        pattern == wanted or (pattern.startswith("*.") and wanted.removeprefix("*").endswith(pattern[1:]))
        for pattern in (each.lower() for each in other.hosts)
    )


def _covers_headers(other: Route, route: Route) -> bool:
    have = {name.lower(): value for name, value in route.headers.items()}
    return all(
        have.get(name.lower()) is not None and value in ("*", have[name.lower()])
        for name, value in other.headers.items()
    )


def _covers_models(other: Route, route: Route) -> bool:
    if not other.models:
        return True
    return bool(route.models) and all(
        any(model == wide or (wide.endswith("*") and model.startswith(wide[:-1])) for wide in other.models)
        for model in route.models
    )


def _tokens(document: Document) -> Iterator[Finding]:
    """Only the dialects of model APIs report tokens."""
    for path in document.match(("routes", "*", "limits", "tokens")):
        protocol = document.get((*path[:2], "protocol"))
        if not is_off(document.get(path)) and protocol in (None, "http"):
            advice = "set protocol to that of the API, such as openai"
            yield Finding(path, f"counts nothing, as protocol: http knows no tokens; {advice}", at_key=True)


def _listen(document: Document, model: type[Server] | type[Admin], section: str) -> tuple[Address, ...]:
    mapping = document.get((section,))
    given = {"listen": mapping["listen"]} if isinstance(mapping, dict) and "listen" in mapping else {}
    try:
        return model.model_validate(given).listen
    except ValidationError:
        return ()


def _listeners(document: Document) -> Iterator[Finding]:
    """Each address may be listened on once; port 0 is a different port each time."""
    taken: set[Address] = set()
    for section, addresses in (
        ("server", _listen(document, Server, "server")),
        ("admin", _listen(document, Admin, "admin")),
    ):
        where: Path = (section, "listen")
        for index, address in enumerate(addresses):
            if address not in taken:
                if address.path is not None or address.port:
                    taken.add(address)
            elif where in document.values:
                yield Finding(document.known((*where, index)), "is listened on already; take another address")
            else:
                yield Finding(
                    ("server", "listen"), "is the default address of the admin listener; set admin.listen too"
                )


def _one_admin(document: Document) -> Iterator[Finding]:
    """A mounted admin page would show only the worker that accepted the connection."""
    given, mount = document.get(("server", "workers")), document.get(("admin", "mount"))
    try:
        workers = 1 if given is None else Server.model_validate({"workers": given}).workers
    except ValidationError:
        return
    if workers > 1 and isinstance(mount, str) and not is_off(mount):
        yield Finding(
            ("admin", "mount"), "would show one of several workers by chance; use admin.listen, or one worker"
        )


def _missing_files(document: Document) -> Iterator[Finding]:
    for pattern in _FILES:
        for path in document.match(pattern):
            value = document.file(path)
            if value is not None and (why := why_unreadable(value)) is not None:
                yield Finding(path, f"cannot be read: {why}")


def _certificates(document: Document) -> Iterator[Finding]:
    """Checks that each key belongs to its certificate, and that CA files contain certificates."""
    for section, authorities in _TLS.items():
        for path in document.match(section):
            cert, key, ca = (document.readable_file((*path, name)) for name in ("cert", "key", authorities))
            if cert is not None and key is not None:
                for name, why in unusable_pair(cert, key):
                    yield Finding((*path, name), why)
            if ca is not None and (why_not := unusable_authorities(ca)) is not None:
                yield Finding((*path, authorities), why_not)


def _engine(document: Document) -> Iterator[Finding]:
    """Refuses keys that only the built-in protocols support."""
    if document.get(("server", "engine")) != "hypercorn":
        return
    http2 = document.get(("server", "http2"))
    if http2 is not None and not is_off(http2):
        yield Finding(
            ("server", "http2"),
            "is not served by the engine hypercorn, whose HTTP/2 loses responses: leave the key out, or use uvicorn",
        )
    if document.get(("server", "proxy_protocol")):
        yield Finding(
            ("server", "proxy_protocol"), "is not understood by the engine hypercorn: leave the key out, or use uvicorn"
        )
