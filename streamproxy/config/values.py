"""Parsers of addresses, URLs, networks, header fields, paths, hosts and names.

As in `streamproxy.config.units`, each parser raises ValueError with the end of a sentence that begins with the value.
It never repeats the value itself, which may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from streamproxy.wire.headers import TOKEN, VALUE
from streamproxy.wire.hosts import DEFAULT_PORTS

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PATH = re.compile(r"/[!$%&'()*+,\-./0-9:;=@A-Z_a-z~]*")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|\[[0-9A-Fa-f:.]+\]")
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Z]+")
_SOURCE = re.compile(r"(header|cookie|query):(.+)")

# Fields that belong to one connection or frame the message (RFC 9110 section 7.6.1): only the proxy writes them.
CONNECTION_LEVEL = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on: a host and a port (0 selects a free port), or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def text(value: object) -> str:
    """Returns any text; null is not text. Raises ValueError."""
    if value is None:
        raise ValueError('must be text; write "" for an empty one')
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def address(value: object) -> Address:
    """``host:port``, ``[v6]:port`` or ``unix:/path``. Raises ValueError."""
    if isinstance(value, Address):
        return value
    problem = "is not an address: write host:port, [v6]:port or unix:/path.sock"
    raw = text(value)
    if raw.startswith("unix:"):
        path = raw.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or path.endswith("/"):
            raise ValueError(problem)
        return Address(path=path)
    host, colon, port = raw.rpartition(":")
    digits = re.fullmatch(r"[0-9]{1,5}", port) is not None
    if host in ("", "*") and digits:
        raise ValueError(f"{problem}; 127.0.0.1:{port} is this machine alone, 0.0.0.0:{port} every address of it")
    if colon and digits and int(port) > 65535:
        raise ValueError("is not an address: a port is at most 65535")
    if not colon or not host or not digits:
        raise ValueError(problem)
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1].partition("%")[0])
        except ValueError:
            raise ValueError(problem) from None
        return Address(host[1:-1], int(port))
    if not _HOST.fullmatch(host):
        raise ValueError(problem)
    return Address(host, int(port))


def _split_url(raw: str, schemes: tuple[str, ...]) -> SplitResult:
    problem = f"is not a URL: write {', '.join(f'{scheme}://host:port' for scheme in schemes)}"
    if raw.startswith(("ws://", "wss://")):
        problem += "; WebSocket goes over these too"
    try:
        url = urlsplit(raw)
        port_is_fine = url.port != 0
    except ValueError:
        raise ValueError(problem) from None
    # urlsplit drops tabs and line breaks, so the original text is checked.
    if url.scheme not in schemes or not re.fullmatch(r"[!-~]+", raw) or not port_is_fine:
        raise ValueError(problem)
    authority = url.netloc.rpartition("@")[2]
    host = authority if authority.endswith("]") else authority.rpartition(":")[0] or authority
    if not _HOST.fullmatch(host):
        raise ValueError(problem)
    return url


def origin(value: object) -> str:
    """Returns the URL of an endpoint (scheme, host and port only) without a final slash. Raises ValueError."""
    raw = text(value)
    url = _split_url(raw, ("http", "https"))
    if "@" in url.netloc:
        raise ValueError("must not carry a user or password: set the credential with request_headers.set")
    if "?" in raw or "#" in raw:
        raise ValueError("must not carry a query or fragment: an endpoint is a scheme, a host and a port")
    if url.path not in ("", "/"):
        raise ValueError("must not carry a path: use rewrite.add_prefix on the route")
    return f"{url.scheme}://{url.netloc}"


def same_origin(value: object) -> str:
    """Normalises the URL of an endpoint for comparison: lower case, no default port (RFC 3986 section 6.2).

    Raises ValueError if it is not an `origin`.
    """
    url = origin(value).lower()
    host, port = host_and_port(url)
    return f"{url.partition(':')[0]}://{host}:{port}"


def host_and_port(origin: str) -> tuple[str, int]:
    """Returns the host of an endpoint's URL in lower case and without brackets, and its port."""
    url = urlsplit(origin)
    return url.hostname or "", url.port or DEFAULT_PORTS[url.scheme]


def proxy_url(value: object) -> str:
    """The URL of an egress proxy; it may carry a user and a password. Raises ValueError."""
    raw = text(value)
    url = _split_url(raw, ("http", "https", "socks5", "socks5h"))
    if url.path not in ("", "/") or "?" in raw or "#" in raw:
        raise ValueError("must not carry a path, query or fragment")
    return raw.removesuffix("/")


def keys_url(value: object) -> str:
    """Returns the URL of a set of keys; a path and a query are allowed. Raises ValueError."""
    raw = text(value)
    url = _split_url(raw, ("http", "https"))
    if "@" in url.netloc or "#" in raw:
        raise ValueError("must not carry a user, a password or a fragment")
    return raw


def name(value: object) -> str:
    """Returns the name of an upstream. Raises ValueError."""
    raw = text(value)
    if not _NAME.fullmatch(raw):
        raise ValueError("is not a name: use letters, digits, '_', '-' and '.'")
    return raw


def upstream(value: object) -> str:
    """Returns the upstream of a route: a name, or the URL of its only endpoint. Raises ValueError."""
    raw = text(value)
    if "://" in raw:
        return origin(raw)
    if raw.startswith("unix:"):
        raise ValueError(
            "is a socket, which an endpoint names: upstreams: {NAME: {endpoints: [{url: http://host, socket: /path}]}}"
        )
    if not _NAME.fullmatch(raw):
        raise ValueError("is neither the name of an upstream nor a URL: a URL begins with http:// or https://")
    return raw


def label(value: object) -> str:
    """Returns the name of a route, which must be printable for metrics and logs. Raises ValueError."""
    raw = text(value)
    if not raw or not raw.isprintable() or raw != raw.strip():
        raise ValueError("is not a name: it must not be empty, nor have control characters or spaces around it")
    return raw


def network(value: object) -> Network:
    """A network in CIDR notation, or one address. Raises ValueError."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    raw = text(value)
    try:
        loose = ipaddress.ip_network(raw, strict=False)
    except ValueError:
        raise ValueError("is not a network: write 10.0.0.0/8, fd00::/8 or one address") from None
    if "/" in raw and loose.network_address != ipaddress.ip_interface(raw).ip:
        raise ValueError(f"has bits set behind its prefix length: the network is {loose}")
    return loose


def header_name(value: object) -> str:
    """Returns the name of a header field: a token (RFC 9110 section 5.1). Raises ValueError."""
    raw = text(value)
    if not raw.isascii() or not TOKEN.fullmatch(raw.encode()):
        raise ValueError("is not a header name: use letters, digits and !#$%&'*+-.^_`|~")
    return raw


def editable_header(value: object) -> str:
    """Returns the name of a header field that a rule may change: none of connection or framing. Raises ValueError."""
    raw = header_name(value)
    if raw.lower() in CONNECTION_LEVEL:
        raise ValueError("cannot be changed by a rule: the proxy writes the fields of a connection itself")
    return raw


def header_value(value: object) -> str:
    """Returns the value of a header field (RFC 9110 section 5.5). Raises ValueError."""
    raw = text(value)
    if not VALUE.fullmatch(raw.encode()):
        raise ValueError("is not a header value: it must not have line breaks or other control characters")
    return raw


def route_path(value: object) -> str:
    """Returns a path pattern: exact, or a prefix that ends in ``/*``. Raises ValueError."""
    raw = text(value)
    if not raw.startswith("/"):
        raise ValueError("is not a path: it must begin with /")
    if "*" in raw.removesuffix("/*"):
        raise ValueError("has a * that is not a final /*: write an exact path, or a prefix such as /v1/*")
    if not _PATH.fullmatch(raw):
        raise ValueError("is not a path: it has no query, and other characters than those of a URL are percent-encoded")
    return raw


def path_prefix(value: object) -> str:
    """Returns a path prefix without its final slash, for example ``/api``. Raises ValueError."""
    raw = text(value)
    if (raw and not _PATH.fullmatch(raw)) or "*" in raw:
        raise ValueError("is not a path prefix: write it as /api, without a * or a query")
    return raw.rstrip("/")


def method(value: object) -> str:
    """Returns a request method, which is case-sensitive (RFC 9110 section 9.1). Raises ValueError."""
    raw = text(value)
    if not _METHOD.fullmatch(raw):
        raise ValueError("is not a method: write it in capitals, such as GET or POST")
    if raw == "*":
        raise ValueError("is not a method: leave methods out for all of them")
    return raw


def host_pattern(value: object) -> str:
    """Returns a host pattern: a name, or ``*.suffix`` for every name below it. Raises ValueError."""
    raw = text(value)
    if not _HOST.fullmatch(raw.removeprefix("*.")):
        raise ValueError("is not a host: write api.example or *.example, without a scheme, port or path")
    return raw


def host_header(value: object) -> str:
    """``upstream``, ``preserve``, or a literal Host (RFC 9110 section 7.2). Raises ValueError."""
    raw = text(value)
    host, colon, port = raw.rpartition(":")
    if not (_HOST.fullmatch(raw) or (colon and _HOST.fullmatch(host) and re.fullmatch(r"[0-9]{1,5}", port))):
        raise ValueError("is not a host: write upstream, preserve, or a literal such as api.example:8443")
    return raw


def file_path(value: object) -> str:
    """Returns the path of a file, which need not exist. Raises ValueError."""
    raw = text(value)
    if not raw or "\0" in raw:
        raise ValueError("is not the path of a file")
    return raw


def socket_path(value: object) -> str:
    """Returns the absolute path of a Unix socket. Raises ValueError."""
    raw = text(value)
    if not raw.startswith("/") or "\0" in raw:
        raise ValueError("is not an absolute path such as /run/backend.sock")
    return raw


_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def hash_source(value: object) -> str:
    """Returns the source of a key: ``header:NAME``, ``cookie:NAME``, ``query:NAME``, ``client_ip`` or ``principal``.

    Raises ValueError.
    """
    raw = text(value)
    match = _SOURCE.fullmatch(raw)
    if raw not in ("client_ip", "principal") and (match is None or not TOKEN.fullmatch(match[2].encode())):
        raise ValueError("is not a source: write header:NAME, cookie:NAME, query:NAME, client_ip or principal")
    return raw


def learn_source(value: object) -> str:
    """Returns the source of a session's name: ``header:NAME``. Raises ValueError."""
    raw = text(value)
    if not (raw.startswith("header:") and TOKEN.fullmatch(raw[7:].encode())):
        raise ValueError("is not the name of a response's field: write header:NAME")
    return raw


def priority_source(value: object) -> str:
    """Returns the source of a request's priority: ``header:NAME``. Raises ValueError."""
    raw = text(value)
    if not (raw.startswith("header:") and TOKEN.fullmatch(raw[7:].encode())):
        raise ValueError("is not the name of a request's field: write header:NAME")
    return raw


def metric_name(value: object) -> str:
    """The name of a Prometheus metric. Raises ValueError."""
    raw = text(value)
    if not _METRIC.fullmatch(raw):
        raise ValueError("is not the name of a metric: use letters, digits, '_' and ':'")
    return raw


def load_factor(value: object) -> float:
    """A number from 1 to 100. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("is not a factor: write a number from 1 to 100, such as 1.25")
    try:
        factor = float(value)
    except ValueError:
        factor = 0.0
    if not 1.0 <= factor <= 100.0:
        raise ValueError("is not a factor: write a number from 1 to 100, such as 1.25")
    return factor


def client_source(value: object) -> str:
    """Returns how clients are identified: ``client_ip``, ``header:NAME`` or ``principal``. Raises ValueError."""
    raw = text(value)
    if raw not in ("client_ip", "principal") and not (raw.startswith("header:") and TOKEN.fullmatch(raw[7:].encode())):
        raise ValueError("is not a source: write client_ip, header:NAME or principal")
    return raw


def model_pattern(value: object) -> str:
    """Returns a model name, or a prefix of names that ends in ``*``. Raises ValueError."""
    raw = text(value)
    if not raw or not raw.isprintable() or "*" in raw[:-1]:
        raise ValueError("is not a model: write its name, or a prefix of names that ends in *")
    return raw


def comment(value: object) -> str:
    """Returns the text of an event-stream comment, which must be one line. Raises ValueError."""
    raw = text(value)
    if not raw.isprintable():
        raise ValueError("is not the text of a comment: it must not have line breaks or other control characters")
    return raw
