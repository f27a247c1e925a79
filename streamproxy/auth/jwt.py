"""Signed tokens: JSON Web Tokens (RFC 7519) with the signatures of RFC 7515, checked by PyJWT.

The key decides which algorithms it may verify: a secret only HS, an RSA key only RS and PS, an elliptic-curve key only
its own ES, an Ed25519 key only EdDSA. This is settled when the keys are read. A token's own ``alg`` selects among these
pairs and cannot add one. Therefore ``none`` is never accepted, and neither is an HS signature made with a public key
(RFC 8725 sections 2.1 and 3.1).

Checking a signature is expensive and clients send the same token many times, so the last `REMEMBERED` valid tokens are
cached by their digests until they expire or a key changes. Invalid tokens are not cached, so an attacker cannot evict
valid ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, cast

import jwt
from jwt import PyJWK
from jwt.types import Options

from streamproxy.auth.credentials import InvalidCredential, NoKeys
from streamproxy.auth.remote import KeySet

REMEMBERED = 1024
MOST_PUBLISHED = 256  # keys of one set that is read from a URL
ASYMMETRIC = "is an asymmetric key: public keys belong into jwks_file"

HS = ("HS256", "HS384", "HS512")
_KINDS = {  # by kty and crv (RFC 7518 section 6.1, RFC 8037 section 2)
    ("oct", ""): HS,
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
_PUBLIC = frozenset(name for (kind, _), names in _KINDS.items() if kind != "oct" for name in names)
_OPTIONS: Options = {"enforce_minimum_key_length": True}
_TIMES = ("exp", "nbf", "iat")
_LAST = 2.0**53  # the largest integer that every JSON parser reads exactly (RFC 7493 section 2.2)


class Key(NamedTuple):
    """A key and the one algorithm it is used with; ``kid`` is the id that tokens select it by."""

    kid: str | None
    algorithm: str
    material: PyJWK | bytes


class _Valid(NamedTuple):
    """A valid token: its principal, and when it expires, in seconds of Unix time."""

    principal: str
    until: float


def secret_keys(secret: str, algorithms: Collection[str] = ()) -> tuple[Key, ...]:
    """Returns the keys of a shared secret, one for each of ``algorithms`` that uses a secret, or for all HS algorithms.

    An algorithm with a hash longer than the secret is left out (RFC 7518 section 3.2). Raises ValueError if none is
    left, and for a secret that is an asymmetric key. The message is the end of a sentence about the secret.
    """
    material = secret.encode()
    keys = []
    for name in HS:
        algorithm = jwt.get_algorithm_by_name(name)
        try:
            too_short = algorithm.check_key_length(algorithm.prepare_key(material))
        except jwt.InvalidKeyError:
            raise ValueError(ASYMMETRIC) from None
        if not too_short and (not algorithms or name in algorithms):
            keys.append(Key(None, name, material))
    if not keys:
        raise ValueError("fits none of the algorithms: HS256 needs 32 bytes, HS384 48 and HS512 64")
    return tuple(keys)


def parse_jwks(data: bytes, algorithms: Collection[str] = ()) -> tuple[Key, ...]:
    """Returns the keys of a JWK Set (RFC 7517), each with the algorithms of its kind that are in ``algorithms``.

    Keys for encryption and of unknown kinds are left out, as section 5 of the RFC requires. Raises ValueError for data
    that is not a JWK Set, that contains a broken key, or that has no usable key.
    """
    return _usable(_document(data), algorithms)


def _document(data: bytes) -> list[dict[str, Any]]:
    try:
        document = json.loads(data)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("it is not a JWK Set: a JSON object with a list of keys")
    return [jwk for jwk in document["keys"] if isinstance(jwk, dict)]


def parse_public_jwks(data: bytes, algorithms: Collection[str] = ()) -> tuple[Key, ...]:
    """Returns the keys of a JWK Set that anybody may read: as `parse_jwks`, without secrets, which are none there.

    Raises ValueError as `parse_jwks`, and for more than `MOST_PUBLISHED` keys.
    """
    document = _document(data)
    if len(document) > MOST_PUBLISHED:
        raise ValueError(f"it has more than {MOST_PUBLISHED} keys")
    return _usable([jwk for jwk in document if jwk.get("kty") != "oct"], algorithms)


def _usable(jwks: list[dict[str, Any]], algorithms: Collection[str]) -> tuple[Key, ...]:
    keys = tuple(key for jwk in jwks for key in _keys_of(jwk, algorithms))
    if not keys:
        raise ValueError("it has no key for any of the algorithms that are accepted")
    return keys


def _keys_of(jwk: dict[str, Any], algorithms: Collection[str]) -> Iterator[Key]:
    kid, kind, uses = jwk.get("kid"), str(jwk.get("kty")), jwk.get("key_ops", ["verify"])
    if not isinstance(uses, list):
        raise ValueError(f"its key {kid!r} cannot be read")
    if jwk.get("use", "sig") != "sig" or "verify" not in uses:
        return
    able = _KINDS.get((kind, str(jwk.get("crv", ""))), ())
    for name in able:
        if name == jwk.get("alg", name) and (not algorithms or name in algorithms):
            try:
                material = PyJWK(jwk, name)
                too_short = material.Algorithm.check_key_length(material.key)
            except jwt.PyJWTError:
                raise ValueError(f"its key {kid!r} cannot be read") from None
            if not too_short:  # a short secret may suffice for HS256 but not for HS512
                yield Key(kid if isinstance(kid, str) else None, name, material)


class JwtVerifier:
    """Verifies tokens with keys and claims.

    Each of ``keys`` returns current keys, and ``remote`` has those of a URL. ``leeway`` is the tolerance for clock
    differences in seconds. Without an ``audience``, a token with ``aud`` is refused, since it is meant for another
    service (RFC 7519 section 4.1.3). ``exp``, ``nbf`` and ``iat`` are checked if present, and each must be a time. A
    token without ``exp`` is valid as long as its key is: the RFC makes the claim optional, so the issuer has chosen
    this.
    """

    def __init__(
        self,
        keys: Sequence[Callable[[], tuple[Key, ...]]],
        remote: KeySet | None = None,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 0.0,
    ) -> None:
        self._keys = tuple(keys) if remote is None else (*keys, cast(Callable[[], tuple[Key, ...]], remote))
        self._remote = remote
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._remembered: dict[bytes, _Valid] = {}  # by the digest of the token, oldest first
        self._remembered_with: list[tuple[Key, ...]] = []  # the keys they were verified with

    def principal(self, token: bytes) -> str | None:
        """Returns the ``sub`` of a token, empty if it has none. Returns None if the credential is not a signed token.

        Raises InvalidCredential for a token that is not valid.
        """
        if token.count(b".") != 2:
            return None
        keys = [source() for source in self._keys]
        if not _same(keys, self._remembered_with):
            self._remembered.clear()
            self._remembered_with = keys
        digest = sha256(token).digest()
        valid = self._remembered.get(digest)
        if valid is None or valid.until <= time.time():
            valid = self._check(token, keys)
            if valid is not None:
                self._remember(digest, valid)
        return valid.principal if valid is not None else None

    def wanting(self, token: bytes) -> KeySet | None:
        """Returns the keys of the URL if a token names a key that is not known, or if they were never read."""
        remote = self._remote
        if remote is None or token.count(b".") != 2 or sha256(token).digest() in self._remembered:
            return None
        header = _header(token)
        if header is None or header.get("alg") not in _PUBLIC:
            return None
        kid = header.get("kid")
        unknown = isinstance(kid, str) and all(kid != key.kid for source in self._keys for key in source())
        return remote if unknown or not remote.known else None

    def _remember(self, digest: bytes, valid: _Valid) -> None:
        self._remembered.pop(digest, None)
        if len(self._remembered) >= REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = valid

    def _check(self, token: bytes, keys: list[tuple[Key, ...]]) -> _Valid | None:
        header = _header(token)
        if header is None:
            return None
        candidates = [key for each in keys for key in each if _fits(key, header)]
        if not candidates and self._remote is not None and not self._remote.known and header.get("alg") in _PUBLIC:
            raise NoKeys("the keys have not been read yet")
        claims = self._claims(token.decode("ascii"), candidates)
        subject = claims.get("sub")
        until = claims["exp"] + self._leeway if "exp" in claims else float("inf")
        return _Valid(f"jwt:{subject}" if subject else "", until)

    def _claims(self, token: str, candidates: list[Key]) -> dict[str, Any]:
        reason = "no key for its algorithm and kid"
        for key in candidates:
            try:
                return self._decode(token, key)
            except jwt.InvalidSignatureError as error:
                reason = str(error)  # another key of the same kind may match
            except jwt.PyJWTError as error:
                raise InvalidCredential(str(error)) from None
            except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
                # PyJWT fails on some claims of signed tokens; which ones depends on its release.
                raise InvalidCredential(f"its claims cannot be read: {type(error).__name__}") from None
        raise InvalidCredential(reason)

    def _decode(self, token: str, key: Key) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            options=_OPTIONS,
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway,
        )
        for name in _TIMES:
            if name in claims and not _is_time(claims[name]):
                raise InvalidCredential(f"its {name} is no time")
        return claims


def _header(token: bytes) -> dict[str, Any] | None:
    """Returns the header of a token, which nothing vouches for, or None if it is not a signed token."""
    try:
        return jwt.get_unverified_header(token.decode("ascii"))
    except (UnicodeDecodeError, RecursionError, jwt.PyJWTError):
        return None


def _is_time(value: object) -> bool:
    """Whether a claim is a NumericDate: a number of seconds since 1970 (RFC 7519 section 2). PyJWT accepts more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LAST


def _fits(key: Key, header: dict[str, Any]) -> bool:
    """Whether a token with this header may have been signed with the key."""
    kid = header.get("kid")
    return key.algorithm == header.get("alg") and (kid is None or key.kid is None or kid == key.kid)


def _same(keys: list[tuple[Key, ...]], others: list[tuple[Key, ...]]) -> bool:
    """Whether these are the identical key objects, so no file was reloaded."""
    return len(keys) == len(others) and all(one is other for one, other in zip(keys, others, strict=True))
