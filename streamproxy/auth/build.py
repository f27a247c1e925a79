"""Builds the authenticator of a route from its ``auth`` section."""

from __future__ import annotations

from collections.abc import Callable

from streamproxy.auth.authenticator import Authenticator, Verifier
from streamproxy.auth.bearer import BearerTokens, digest_token, parse_tokens
from streamproxy.auth.credentials import FromCookie, FromHeader, FromQuery, Source
from streamproxy.auth.remote import KeySets
from streamproxy.auth.watched import File, T, Watched
from streamproxy.config import auth as model
from streamproxy.errors import StreamproxyError

OpenFile = Callable[[str], File]
NO_JWT = "needs another package: pip install 'streamproxy[jwt]'"


def build_authenticator(auth: model.Auth, open_file: OpenFile, key_sets: KeySets) -> Authenticator:
    """Returns the authenticator of a route.

    ``open_file`` opens a file that is read now and again later, and ``key_sets`` has the keys that URLs publish.

    Raises StreamproxyError if a file cannot be read or parsed, or if the package for JWT is missing.
    """
    verifiers: list[Verifier] = []
    if auth.bearer is not None:
        verifiers.append(_bearer(auth.bearer, open_file))
    if auth.jwt is not None:
        verifiers.append(_jwt(auth.jwt, open_file, key_sets))
    waits = auth.jwt is not None and auth.jwt.jwks_url is not None
    return Authenticator(verifiers, [_source(source) for source in auth.from_], pass_on=auth.pass_, waits=waits)


def _bearer(bearer: model.Bearer, open_file: OpenFile) -> BearerTokens:
    tokens = [digest_token(entry.token, entry.name) for entry in bearer.tokens if entry.token is not None]
    files = [_watch(open_file(entry.file), parse_tokens) for entry in bearer.tokens if entry.file is not None]
    return BearerTokens(tokens, files)


def _jwt(settings: model.Jwt, open_file: OpenFile, key_sets: KeySets) -> Verifier:
    try:
        from streamproxy.auth.jwt import JwtVerifier, Key, parse_jwks, parse_public_jwks, secret_keys
    except ImportError:
        raise StreamproxyError(f"auth.jwt {NO_JWT}") from None
    keys: list[Callable[[], tuple[Key, ...]]] = []
    if settings.jwks_file is not None:
        keys.append(_watch(open_file(settings.jwks_file), lambda data: parse_jwks(data, settings.algorithms)))
    if settings.secret is not None:
        try:
            fixed = secret_keys(settings.secret, settings.algorithms)
        except ValueError as error:
            raise StreamproxyError(f"auth.jwt.secret {error}") from None
        keys.append(lambda: fixed)
    remote = None
    if settings.jwks_url is not None:
        algorithms = settings.algorithms
        remote = key_sets.of(settings.jwks_url, algorithms, lambda data: parse_public_jwks(data, algorithms))
    return JwtVerifier(keys, remote, issuer=settings.issuer, audience=settings.audience, leeway=settings.leeway)


def _watch(file: File, parse: Callable[[bytes], T]) -> Watched[T]:
    try:
        return Watched(file, parse)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StreamproxyError(f"{file.path} cannot be used: {reason}") from None


def _source(source: str | model.TokenSource) -> Source:
    if isinstance(source, str):
        return FromHeader()
    if source.query is not None:
        return FromQuery(source.query)
    assert source.cookie is not None, "the configuration has checked that it has one"
    return FromCookie(source.cookie)
