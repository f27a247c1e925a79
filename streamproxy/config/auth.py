"""Who may use a route: ``auth``."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from streamproxy.config import types as t
from streamproxy.config import values
from streamproxy.config.section import OrOff, Section, setting
from streamproxy.wire.headers import TOKEN

_BEARER = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1


Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


def bearer_token(value: object) -> str:
    """Returns the text of a bearer token. Raises ValueError; the message does not contain the token."""
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


class Token(Section):
    """One bearer token, or a file of tokens; a text alone is a token."""

    token: Annotated[str | None, BeforeValidator(lambda value: None if value is None else bearer_token(value))] = Field(
        default=None, description="the token", repr=False
    )
    name: Annotated[str | None, BeforeValidator(lambda value: None if value is None else values.name(value))] = Field(
        default=None, description="the principal, for limits.client_key: principal"
    )
    file: t.OptionalFile = setting(
        "off", "a file with a token, or a name and a token, on each line; reloaded when it changes"
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
    """Static tokens."""

    tokens: Annotated[tuple[Token, ...], BeforeValidator(t.some)] = Field(
        description="the accepted tokens: TOKEN, {name: NAME, token: TOKEN} or {file: PATH}", repr=False
    )


class Jwt(Section):
    """Signed tokens; a token without exp is valid as long as its key is."""

    jwks_file: t.OptionalFile = setting("off", "the public keys, a JWK Set; reloaded when it changes")
    jwks_url: t.OptionalKeysUrl = setting(
        "off", "where the public keys are published, a JWK Set; read at the start, every 10 min, and for an unknown kid"
    )
    secret: t.OptionalText = Field(default=None, description="the key of HS algorithms, 32 bytes or more", repr=False)
    issuer: t.OptionalText = setting("off", "the required value of iss")
    audience: t.OptionalText = setting("off", "the required member of aud; off: only tokens without aud")
    algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(t.any_number)] = setting(
        [], "the accepted algorithms; none: those that fit the keys"
    )
    leeway: t.Duration = setting("30s", "tolerance for clock differences in exp, nbf and iat")

    @model_validator(mode="after")
    def _has_keys(self) -> Jwt:
        if self.jwks_file is None and self.jwks_url is None and self.secret is None:
            raise ValueError("needs jwks_file, jwks_url or secret")
        symmetric = [name for name in self.algorithms if name.startswith("HS")]
        if self.jwks_url is not None and self.algorithms and len(symmetric) == len(self.algorithms):
            raise ValueError("has jwks_url, and no algorithm for the public keys that are there")
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


# The tag selects the model of an item, so that only that model reports errors.
_Source = Annotated[
    Annotated[Literal["header"], Tag("text")] | Annotated[TokenSource, Tag("mapping")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "mapping"),
]


class Auth(Section):
    """Authentication of a route."""

    bearer: Annotated[Bearer | None, OrOff] = setting("off", "fixed tokens")
    jwt: Annotated[Jwt | None, OrOff] = setting("off", "signed tokens")
    from_: Annotated[tuple[_Source, ...], BeforeValidator(t.some)] = setting(
        ["header"], "header, {query: NAME}, {cookie: NAME}: searched in this order", alias="from"
    )
    pass_: t.Switch = setting(
        "off", "pass credentials to the upstream; off: they are removed from every source in from", alias="pass"
    )

    @model_validator(mode="after")
    def _has_a_kind(self) -> Auth:
        if self.bearer is None and self.jwt is None:
            raise ValueError("needs bearer or jwt")
        return self
