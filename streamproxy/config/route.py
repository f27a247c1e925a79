"""The sections that say who may use a route, and how much of it: ``limits``, ``auth`` and ``cors``."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from streamproxy.config import types as t
from streamproxy.config import values
from streamproxy.config.section import OrOff, Section, setting
from streamproxy.wire.headers import TOKEN

# RFC 6454 section 6.2: what a browser sends as Origin. Hosts and schemes are in lower case there.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_BEARER = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


def cors_origin(value: object) -> str:
    """An origin as browsers write it, or ``*``; a default port is dropped, as they do. Raises ValueError."""
    raw = values.text(value)
    match = _ORIGIN.fullmatch(raw.lower())
    if raw == "*":
        return raw
    if match is None:
        raise ValueError("is not an origin: write https://app.example, with a port where it is not the usual one, or *")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def bearer_token(value: object) -> str:
    """The text of a bearer token. Raises ValueError, which does not repeat it."""
    raw = values.text(value)
    if not _BEARER.fullmatch(raw):
        raise ValueError("is not a bearer token: it has letters, digits and -._~+/, may end in =, and is not empty")
    return raw


def parameter_name(value: object) -> str:
    """The name of a query parameter or a cookie. Raises ValueError."""
    raw = values.text(value)
    if not TOKEN.fullmatch(raw.encode()):
        raise ValueError("is not the name of a parameter or a cookie: use letters, digits, '_' and '-'")
    return raw


_Parameter = Annotated[
    str | None,
    BeforeValidator(t.off_or(parameter_name)),
    t.WithJsonSchema({"anyOf": [{"type": "string"}, t.OFF_SCHEMA]}),
]


class RequestLimit(Section):
    """How many requests a client may make in a time."""

    rate: t.Rate = Field(description="such as 100/1m")
    burst: t.CountLimit = setting("off", "how many at once; off: as many as the rate's count")


class TokenLimit(Section):
    """How many tokens a client may use in a time, as they are reported."""

    rate: t.Rate = Field(description="such as 1000000/1h")
    count: Literal["total", "input", "output"] = setting("total", "the tokens that count")


class Limits(Section):
    """How much is let through at once, and how large; each process keeps its own count."""

    max_streams: t.CountLimit = setting("off", "exchanges of this route at once")
    max_streams_per_client: t.CountLimit = setting("off", "of one client; past it 429, and no waiting")
    client_key: t.ClientSource = setting("client_ip", "what a client is: client_ip, header:NAME or principal")
    queue: t.Number = setting(0, "how many may wait for a place")
    queue_timeout: t.Timeout = setting("5s", "how long they wait")
    max_request_body: t.SizeLimit = setting("off", "a larger one gets 413")
    inspect_body: t.Size = setting("16MiB", "the most of a JSON body that is held to read model and stream from")
    fair_by: Annotated[Literal["client_key"] | None, OrOff] = setting(
        "off", "client_key: clients take turns in the queue; off: first come, first served"
    )
    priority: t.OptionalHeaderSource = setting("off", "header:NAME, an integer: a higher one is served first")
    requests: Annotated[RequestLimit | None, OrOff] = setting("off", "how many a client may make in a time")
    tokens: Annotated[TokenLimit | None, OrOff] = setting("off", "how many tokens a client may use in a time")
    max_events: t.CountLimit = setting("off", "of one stream, which is cut then")
    store: Literal["memory"] = setting("memory", "where requests and tokens are counted")

    @model_validator(mode="after")
    def _order_of_something(self) -> Limits:
        for key in ("fair_by", "priority"):
            if getattr(self, key) is not None and not self.queue:
                raise ValueError(f"has {key} without a queue, whose order it would be")
        return self

    @model_validator(mode="after")
    def _queue_for_something(self) -> Limits:
        if self.queue and self.max_streams is None:
            raise ValueError("has a queue without max_streams, whose places it would be for")
        return self


class Cors(Section):
    """Cross-origin requests of browsers."""

    origins: Annotated[
        tuple[Annotated[str, BeforeValidator(cors_origin)], ...],
        BeforeValidator(t.one_or_more),
        t.WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(description="origins such as https://app.example, or *")
    credentials: t.Switch = setting("off", "whether cookies and Authorization may be sent")

    @model_validator(mode="after")
    def _any_origin_is_alone(self) -> Cors:
        if "*" in self.origins and self.credentials:
            raise ValueError("has credentials for every origin (*), which lets any page act for its visitor: name them")
        if "*" in self.origins and len(self.origins) > 1:
            raise ValueError("has * beside other origins, which it includes")
        return self


class Token(Section):
    """One bearer token, or a file of them; a text alone is a token."""

    token: Annotated[str | None, BeforeValidator(lambda value: None if value is None else bearer_token(value))] = Field(
        default=None, description="the token", repr=False
    )
    name: Annotated[str | None, BeforeValidator(lambda value: None if value is None else values.name(value))] = Field(
        default=None, description="whose it is, for limits.client_key: principal"
    )
    file: t.OptionalFile = setting(
        "off", "a file with one token, or a name and a token, on each line; read again when it changes"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"token": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of(self) -> Token:
        if (self.token is None) == (self.file is None):
            raise ValueError("must be a token, {name: NAME, token: TOKEN} or {file: PATH}")
        if self.file is not None and self.name is not None:
            raise ValueError("must not name a file's tokens: the names stand in the file")
        return self


class Bearer(Section):
    """Fixed tokens."""

    tokens: Annotated[tuple[Token, ...], BeforeValidator(t.some)] = Field(
        description="any of them lets in: tokens, {name: NAME, token: TOKEN}, {file: PATH}", repr=False
    )


class Jwt(Section):
    """Signed tokens; one without exp is valid as long as its key is."""

    jwks_file: t.OptionalFile = setting("off", "the public keys, a JWK Set; read again when it changes")
    secret: t.OptionalText = Field(default=None, description="the key of HS algorithms, 32 bytes or more", repr=False)
    issuer: t.OptionalText = setting("off", "what iss must be")
    audience: t.OptionalText = setting("off", "what aud must have; off: only tokens without aud")
    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(t.any_number)] = setting(
        [], "the ones that are accepted; none: those that fit the kinds of the keys"
    )
    leeway: t.Duration = setting("30s", "for clocks that differ, in exp, nbf and iat")

    @model_validator(mode="after")
    def _has_keys(self) -> Jwt:
        if self.jwks_file is None and self.secret is None:
            raise ValueError("needs jwks_file or secret")
        symmetric = [name for name in self.algorithms if name.startswith("HS")]
        if self.secret is None:
            return self
        if self.algorithms and not symmetric:
            raise ValueError("has a secret, and no HS algorithm that would use it")
        if len(self.secret.encode()) * 8 < min(int(name[2:]) for name in symmetric or ["HS256"]):
            raise ValueError("has a secret shorter than the hash of its algorithm: HS256 needs 32 bytes or more")
        return self


class TokenSource(Section):
    """A query parameter or a cookie that may carry the credential."""

    query: _Parameter = setting("off", "the parameter's name")
    cookie: _Parameter = setting("off", "the cookie's name")

    @model_validator(mode="after")
    def _one_of(self) -> TokenSource:
        if (self.query is None) == (self.cookie is None):
            raise ValueError("must be {query: NAME} or {cookie: NAME}")
        return self


# The tag says which of the two an item is meant to be, so that only that one complains.
_Source = Annotated[
    Annotated[Literal["header"], Tag("text")] | Annotated[TokenSource, Tag("mapping")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "mapping"),
]


class Auth(Section):
    """Who may use a route."""

    bearer: Annotated[Bearer | None, OrOff] = setting("off", "fixed tokens")
    jwt: Annotated[Jwt | None, OrOff] = setting("off", "signed tokens")
    from_: Annotated[tuple[_Source, ...], BeforeValidator(t.some)] = setting(
        ["header"], "header, {query: NAME}, {cookie: NAME}: looked at in this order", alias="from"
    )
    pass_: t.Switch = setting(
        "off", "whether the upstream sees credentials; off: every source in from is emptied", alias="pass"
    )

    @model_validator(mode="after")
    def _has_a_kind(self) -> Auth:
        if self.bearer is None and self.jwt is None:
            raise ValueError("needs bearer or jwt")
        return self
