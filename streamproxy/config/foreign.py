"""Recognises what people bring from other proxies: whole files, names of keys, and the usual slips of YAML.

All of it only improves a message about a file that is refused anyway.
"""

from __future__ import annotations

import re
from typing import Final

from streamproxy.config.examples import section_of
from streamproxy.config.redact import Path

_MIGRATING: Final = "docs/migrating.md has the same in streamproxy's form"
_SMALLEST: Final = "the smallest file of streamproxy is routes: [{path: /*, upstream: http://host:port}]"


def _line(pattern: str) -> re.Pattern[str]:
    return re.compile("^" + pattern, re.MULTILINE)


# Each is a line of one format. A broken file of ours may contain it too, inside of text.
_TEXTS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("an nginx configuration", _line(r"\s*((server|http|events|location\b[^{;]*|upstream\s+\S+)\s*\{|proxy_pass\s)")),
    ("an Apache configuration", _line(r"\s*(<VirtualHost\b|ProxyPass\s)")),
    ("a Caddyfile", _line(r"(\s*(reverse_proxy|handle|handle_path|encode)\b|[\w.*:/-]+ \{$)")),
    ("an HAProxy configuration", _line(r"(global|defaults|(frontend|backend|listen)\s+\S+)\s*$")),
    ("a Kubernetes manifest", _line(r"apiVersion:\s")),
    ("a systemd unit", _line(r"\[(Unit|Service|Socket)\]\s*$")),
    ("TOML", _line(r"\[\[?[\w.]+\]\]?\s*$")),
)  # fmt: skip
_KEYS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("an Envoy configuration", frozenset({"static_resources", "dynamic_resources", "virtual_hosts"})),
    ("a LiteLLM configuration", frozenset({"model_list", "litellm_settings", "general_settings", "router_settings"})),
    ("a Kong configuration", frozenset({"_format_version"})),
    ("a Caddy configuration in JSON", frozenset({"apps"})),
    ("a Traefik configuration", frozenset({"entryPoints", "providers", "http"})),
    ("a compose file", frozenset({"services"})),
    ("a Prometheus configuration", frozenset({"scrape_configs"})),
    ("a Kubernetes manifest", frozenset({"apiVersion", "kind"})),
)

_IDLE: Final = "the limit between two reads is timeouts.idle, the wait for the response head timeouts.first_byte"
_OF_A_ROUTE: Final = "it belongs to a route"

_MIGRATED: Final = ("nginx", "Caddy", "Envoy", "HAProxy", "LiteLLM")

# By section: what to write instead of a key.
_FAMILIAR: Final[dict[str, dict[str, str]]] = {
    "": {
        **dict.fromkeys(("listen", "port", "bind", "host"), "write server: {listen: 127.0.0.1:8080}"),
        **dict.fromkeys(
            ("limits", "auth", "cors", "protocol", "keepalive", "timeouts", "retry", "resume"), _OF_A_ROUTE
        ),
        **dict.fromkeys(("workers", "tls", "http2", "trusted_proxies"), "it belongs to server"),
        "upstream": "write upstreams: {name: {endpoints: [http://host:port]}}",
        "endpoints": "write upstreams: {name: {endpoints: [http://host:port]}}",
        "metrics": "they are at /metrics of admin.listen",
    },
    "server": {
        **dict.fromkeys(("port", "host", "bind"), "write listen: 127.0.0.1:8080"),
        **dict.fromkeys(
            ("ssl_certificate", "ssl_certificate_key", "cert", "key", "certfile", "keyfile"),
            "write tls: {cert: FILE, key: FILE}",
        ),
        "worker_processes": "write workers: 2",
        "client_max_body_size": "write limits: {max_request_body: 20MiB} at the route",
        "access_log": "write log: {access: on}",
    },
    "upstreams": {
        **dict.fromkeys(
            ("servers", "server", "hosts", "url", "urls", "address", "endpoint", "targets"),
            "write endpoints: [http://host:port]",
        ),
        **dict.fromkeys(("lb_policy", "load_balancing", "policy"), "write balance: least_streams"),
        **dict.fromkeys(
            ("max_fails", "fail_timeout", "outlier_detection"),
            "write outlier: {consecutive_failures: 5, eject_for: 30s}",
        ),
        **dict.fromkeys(("health_check", "health_checks", "healthcheck"), "write health: {path: /health}"),
        "max_connections": "write connections: {max: 1000}",
        "keepalive": "write connections: {max_idle: 100, idle_timeout: 30s}",
        "timeouts": _OF_A_ROUTE,
        "protocol": _OF_A_ROUTE,
        "api_key": 'write request_headers: {set: {Authorization: "Bearer ${NAME}"}}',
    },
    "routes": {
        **dict.fromkeys(
            ("proxy_pass", "reverse_proxy", "backend", "cluster", "target", "url", "endpoints"),
            "write upstream: http://host:port, or the name of an upstream",
        ),
        **dict.fromkeys(("location", "prefix", "match"), "write path: /v1/* for a prefix, path: /v1 for one path"),
        **dict.fromkeys(("proxy_read_timeout", "read_timeout", "stream_idle_timeout"), _IDLE),
        **dict.fromkeys(("timeout", "request_timeout"), "write timeouts: {first_byte: 60s, idle: 5m, total: off}"),
        **dict.fromkeys(
            ("proxy_buffering", "buffering", "flush_interval"),
            "nothing is buffered here, so there is nothing to switch off",
        ),
        **dict.fromkeys(("proxy_set_header", "header_up"), "write request_headers: {set: {Name: value}}"),
        **dict.fromkeys(("add_header", "header_down"), "write response_headers: {set: {Name: value}}"),
        **dict.fromkeys(("strip_prefix", "prefix_rewrite"), "write rewrite: {strip_prefix: /prefix}"),
        **dict.fromkeys(("retries", "max_retries"), "write retry: {attempts: 3}"),
        **dict.fromkeys(("token", "tokens", "bearer"), 'write auth: {bearer: {tokens: ["${NAME}"]}}'),
        **dict.fromkeys(("health", "balance", "outlier", "tls", "load"), "it belongs to an entry of upstreams"),
        "proxy_connect_timeout": "write timeouts: {connect: 5s}",
        "connect_timeout": "write timeouts: {connect: 5s}",
        "proxy_send_timeout": "write timeouts: {write: 60s}",
        "client_max_body_size": "write limits: {max_request_body: 20MiB}",
        "max_request_body": "write limits: {max_request_body: 20MiB}",
        "max_streams": "write limits: {max_streams: 64}",
        "rate_limit": "write limits: {requests: {rate: 100/1m}}",
        "method": "write methods: [GET]",
        "host": "write hosts: [name]",
        "model": "write models: [name]",
    },
    "routes.timeouts": {
        "read": _IDLE,
        "response": "the wait for the response head is timeouts.first_byte, the whole exchange timeouts.total",
        "send": "a client, or an upstream, that takes nothing: write",
    },
}


_OURS: Final = _line(r"routes\s*:")
_NO_SPACE: Final = re.compile(r"^\s*(?:- )?[a-z_]+:[^\s/]|^\s*(?:- )?[a-z_]+:/(?!/)")
_UNQUOTED: Final = re.compile(r"[:\-\[{,]\s+([*@`%&!])")
_KEY: Final = re.compile(r"([ ]*(?:- +)*)[\w.-]+:(?: +[^ #]|$| )")
_KEY_AND_VALUE: Final = re.compile(r"([ ]*(?:- +)*)[\w.-]+: +[^ #|>&]")
_RULES: Final = frozenset({"routes.request_headers", "routes.response_headers", "upstreams.request_headers"})


def recognised(data: object, text: str) -> str | None:
    """Returns what a file is that is not ours: "an nginx configuration", or None. Ours always has ``routes``.

    ``data`` is what was read of its ``text``. A mapping is recognised by its keys, anything else by its lines: a text
    with the key ``routes`` is ours, though it cannot be parsed.
    """
    if not isinstance(data, dict):
        if _OURS.search(text):
            return None
        return next((name for name, line in _TEXTS if line.search(text)), None)
    if "routes" in data:
        return None
    return next((name for name, known in _KEYS if known & data.keys()), None)


def instead(other: str) -> str:
    """Returns what to do with a file that `recognised` has named."""
    return _MIGRATING if any(name in other for name in _MIGRATED) else _SMALLEST


def familiar(path: Path) -> str | None:
    """Returns what to write in place of the key at a path, if other proxies have such a key there, or None."""
    section, key = section_of(path[:-1]), str(path[-1])
    if section in _RULES and key != key.lower():
        return "write set: {Name: value}"
    return _FAMILIAR.get(section, {}).get(key)


def slip(lines: list[str], line: int) -> str | None:
    """Returns what is probably wrong near a line (from 0) at which YAML could not be read on, or None."""
    source = lines[line] if line < len(lines) else ""
    before = next((each for each in reversed(lines[:line]) if each.strip()), "")
    if "\t" in source[: len(source) - len(source.lstrip())]:
        return "YAML is indented with spaces, never with tabs"
    if (unquoted := _UNQUOTED.search(source)) is not None:
        return f'a value that begins with {unquoted[1]} is quoted: "{unquoted[1]}…"'
    if _NO_SPACE.match(source) or _NO_SPACE.match(before):
        return "the colon after a key is followed by a space"
    if _is_out_of_column(source, before, lines[:line]):
        return "the keys of one mapping begin in the same column"
    return None


def _is_out_of_column(source: str, before: str, above: list[str]) -> bool:
    """Whether the key in a line is deeper than one above that has its value, or in a column where no key begins."""
    key, previous = _KEY.match(source), _KEY_AND_VALUE.match(before)
    if key is None or previous is None:
        return False
    columns = {len(match[1]) for match in map(_KEY.match, above) if match is not None}
    return len(key[1]) > len(previous[1]) or len(key[1]) not in columns
