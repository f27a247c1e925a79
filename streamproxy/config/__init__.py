"""The configuration model, and the functions that load it from a file.

model      the typed, frozen model of a file, with every default
load       `load_config` and `parse_config`: return a `Config`, or raise with every problem at once
schema     the JSON Schema of the file, for editors
"""

from streamproxy.config.limits import Limits
from streamproxy.config.load import load_config, parse_config
from streamproxy.config.model import (
    Admin,
    Config,
    Connections,
    Endpoint,
    HeaderRules,
    Keepalive,
    Log,
    Rewrite,
    Route,
    Server,
    Timeouts,
    Upstream,
    UpstreamTls,
)
from streamproxy.config.schema import json_schema
from streamproxy.config.values import Address

__all__ = [
    "Address",
    "Admin",
    "Config",
    "Connections",
    "Endpoint",
    "HeaderRules",
    "Keepalive",
    "Limits",
    "Log",
    "Rewrite",
    "Route",
    "Server",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "json_schema",
    "load_config",
    "parse_config",
]
