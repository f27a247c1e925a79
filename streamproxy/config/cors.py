"""Cross-origin requests of browsers: ``cors``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from streamproxy.config import types as t
from streamproxy.config import values
from streamproxy.config.section import Section, setting
from streamproxy.wire.hosts import DEFAULT_PORTS

# RFC 6454 section 6.2: the Origin that browsers send. Scheme and host are in lower case.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def cors_origin(value: object) -> str:
    """Returns an origin as browsers write it, without a default port, or ``*``. Raises ValueError."""
    raw = values.text(value)
    match = _ORIGIN.fullmatch(raw.lower())
    if raw == "*":
        return raw
    if match is None:
        raise ValueError("is not an origin: write https://app.example, with a port where it is not the usual one, or *")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and int(port) != DEFAULT_PORTS.get(scheme) else "")


class Cors(Section):
    """CORS: cross-origin requests of browsers."""

    origins: Annotated[
        tuple[Annotated[str, BeforeValidator(cors_origin)], ...],
        BeforeValidator(t.one_or_more),
        t.WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(description="origins such as https://app.example, or *")
    credentials: t.Switch = setting("off", "allow cookies and Authorization")

    @model_validator(mode="after")
    def _any_origin_is_alone(self) -> Cors:
        if "*" in self.origins and self.credentials:
            raise ValueError("has credentials for every origin (*), which lets any page act for its visitor: name them")
        if "*" in self.origins and len(self.origins) > 1:
            raise ValueError("has * beside other origins, which it includes")
        return self
