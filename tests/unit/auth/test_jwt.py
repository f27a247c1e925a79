"""Signed tokens: what lets in, and every forgery that must not."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from streamproxy.auth import jwt as auth_jwt
from streamproxy.auth.credentials import InvalidCredential
from streamproxy.auth.jwt import JwtVerifier, Key, parse_jwks, secret_keys
from streamproxy.auth.watched import PERIOD, Watched
from tests.doubles.clock import Clock
from tests.unit.auth.doubles import MemoryFile

SECRET = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"RS256": RSA_KEY, "PS512": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}


def jwk(algorithm: str, **more: str) -> dict[str, Any]:
    """The public key for an algorithm, as a JWK."""
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(PRIVATE[algorithm].public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


ALL_KEYS = jwks(jwk("RS256", kid="r"), jwk("ES256", kid="e"), jwk("EdDSA", kid="d"))


def sign(algorithm: str = "HS256", *, key: Any = None, kid: str | None = None, **claims: Any) -> bytes:
    if key is None:
        key = PRIVATE.get(algorithm, SECRET)
    headers = {"kid": kid} if kid else None
    return jwt.encode({"sub": "alice", **claims}, key, algorithm=algorithm, headers=headers).encode()


def verifier(*keys: tuple[Key, ...], **settings: Any) -> JwtVerifier:
    def give(each: tuple[Key, ...]) -> Callable[[], tuple[Key, ...]]:
        return lambda: each

    return JwtVerifier([give(each) for each in keys], **settings)


def lets_in(checks: JwtVerifier, token: bytes) -> bool:
    try:
        return checks.principal(token) is not None
    except InvalidCredential:
        return False


def part(data: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=")


@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "RS256", "PS512", "ES256", "EdDSA"])
def test_every_kind_of_key_lets_in_by_default(algorithm: str) -> None:
    checks = verifier(parse_jwks(ALL_KEYS), secret_keys(SECRET))
    assert checks.principal(sign(algorithm)) == "jwt:alice"


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS512", "ES256", "EdDSA"])
def test_a_changed_token_is_refused(algorithm: str) -> None:
    checks = verifier(parse_jwks(ALL_KEYS), secret_keys(SECRET))
    head, _, signature = sign(algorithm).split(b".")
    with pytest.raises(InvalidCredential):
        checks.principal(b".".join((head, part({"sub": "mallory"}), signature)))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None])
@pytest.mark.parametrize("signature", [b"", b"AAAA"])
def test_alg_none_is_refused_in_every_spelling(name: str | None, signature: bytes) -> None:
    token = b".".join((part({"alg": name, "typ": "JWT"}), part({"sub": "mallory"}), signature))
    checks = verifier(parse_jwks(ALL_KEYS), secret_keys(SECRET))
    assert not lets_in(checks, token)


def test_a_public_key_is_no_secret() -> None:
    """RFC 8725 section 2.1: an RS key set must not take HS signed with the public key's bytes, in any encoding."""
    public = RSA_KEY.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    checks = verifier(parse_jwks(ALL_KEYS))
    for secret in (pem, der, json.dumps(jwk("RS256")).encode(), jwk("RS256")["n"].encode()):
        signing_input = part({"alg": "HS256", "kid": "r"}) + b"." + part({"sub": "mallory"})
        hs256 = jwt.get_algorithm_by_name("HS256")
        signature = base64.urlsafe_b64encode(hs256.sign(signing_input, secret)).rstrip(b"=")
        with pytest.raises(InvalidCredential, match="no key"):
            checks.principal(signing_input + b"." + signature)


def test_a_public_key_cannot_be_configured_as_a_secret() -> None:
    pem = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="jwks_file"):
        secret_keys(pem.decode())


def test_a_key_embedded_in_the_token_is_not_looked_at() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    embedded = jwt.get_algorithm_by_name("ES256").to_jwk(other.public_key(), as_dict=True)
    token = jwt.encode({"sub": "mallory"}, other, algorithm="ES256", headers={"jwk": embedded, "kid": "e"})
    with pytest.raises(InvalidCredential):
        verifier(parse_jwks(ALL_KEYS)).principal(token.encode())


def test_only_the_configured_algorithms_are_accepted() -> None:
    checks = verifier(parse_jwks(ALL_KEYS, ["ES256"]))
    assert checks.principal(sign("ES256")) == "jwt:alice"
    with pytest.raises(InvalidCredential):
        checks.principal(sign("RS256"))


def test_a_key_that_names_its_algorithm_serves_no_other() -> None:
    checks = verifier(parse_jwks(jwks(jwk("RS256", alg="RS256"))))
    assert checks.principal(sign("RS256")) == "jwt:alice"
    with pytest.raises(InvalidCredential):
        checks.principal(sign("PS512"))


@pytest.mark.parametrize("more", [{"use": "enc"}, {"kty": "strange"}, {"crv": "secp256k1"}])
def test_keys_for_something_else_are_left_out(more: dict[str, str]) -> None:
    keys = parse_jwks(jwks(jwk("ES256", **more), jwk("EdDSA", kid="d")))
    assert {key.kid for key in keys} == {"d"}


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": []}', jwks({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
     jwks({"kty": "EC", "crv": "P-256", "x": "secret-x", "y": "?"})],
)  # fmt: skip
def test_a_key_set_without_a_usable_key_is_an_error_that_shows_no_key(data: bytes) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - a JSONDecodeError is one, too
        parse_jwks(data)
    assert "secret-x" not in str(refused.value)


def test_the_kid_chooses_among_keys_and_a_token_without_one_tries_them() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    stranger = jwt.get_algorithm_by_name("ES256").to_jwk(other.public_key(), as_dict=True)
    checks = verifier(parse_jwks(jwks({**stranger, "kid": "old"}, jwk("ES256", kid="new"))))
    assert checks.principal(sign("ES256", kid="new")) == "jwt:alice"
    assert checks.principal(sign("ES256")) == "jwt:alice"
    for kid in ("old", "unknown"):
        with pytest.raises(InvalidCredential):
            checks.principal(sign("ES256", kid=kid))


@pytest.mark.parametrize(
    ("claims", "settings", "fine"),
    [
        ({"exp": 60}, {}, True),
        ({"exp": -60}, {}, False),
        ({"exp": -60}, {"leeway": 90.0}, True),
        ({"nbf": 60}, {}, False),
        ({"nbf": 60}, {"leeway": 90.0}, True),
        ({"iat": 3600}, {}, False),
        ({"iss": "https://id.example"}, {"issuer": "https://id.example"}, True),
        ({"iss": "https://other.example"}, {"issuer": "https://id.example"}, False),
        ({}, {"issuer": "https://id.example"}, False),
        ({"aud": "proxy"}, {"audience": "proxy"}, True),
        ({"aud": ["x", "proxy"]}, {"audience": "proxy"}, True),
        ({"aud": "other"}, {"audience": "proxy"}, False),
        ({}, {"audience": "proxy"}, False),
        ({"aud": "other"}, {}, False),
        ({"exp": "soon"}, {}, False),
        ({"sub": 5}, {}, False),
    ],
)
def test_the_claims_are_checked(claims: dict[str, Any], settings: dict[str, Any], fine: bool) -> None:
    now = int(time.time())
    absolute = {
        name: now + value if name in ("exp", "nbf", "iat") and isinstance(value, int) else value
        for name, value in claims.items()
    }
    checks, token = verifier(secret_keys(SECRET), **settings), sign_as_is(absolute)
    if fine:
        assert checks.principal(token) == "jwt:alice"
    else:
        with pytest.raises(InvalidCredential):
            checks.principal(token)


NO_TIMES = (10**400, -(10**400), 1e300, float("inf"), float("-inf"), float("nan"), -1, -0.5, "soon", "9999999999", "")
NO_TIMES_EITHER = (True, False, None, [], [9999999999], {}, {"at": 9999999999})


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [*NO_TIMES, *NO_TIMES_EITHER], ids=lambda value: repr(value)[:12])
def test_a_time_that_is_none_lets_nobody_in_however_well_it_is_signed(claim: str, value: object) -> None:
    with pytest.raises(InvalidCredential):
        verifier(secret_keys(SECRET)).principal(sign_as_is({claim: value}))


@pytest.mark.parametrize(
    "claims", [{"exp": 9999999999}, {"exp": 2.0**53}, {"exp": 9999999999.5, "nbf": 0.25, "iat": 0}, {}]
)
def test_any_real_time_is_one_and_a_token_without_exp_is_valid_as_long_as_its_key(claims: dict[str, Any]) -> None:
    checks = verifier(secret_keys(SECRET))
    token = sign_as_is(claims)
    assert [checks.principal(token), checks.principal(token)] == ["jwt:alice"] * 2  # checked, and remembered


def test_claims_and_heads_that_nobody_can_read_let_nobody_in() -> None:
    checks = verifier(secret_keys(SECRET))
    deep = base64.urlsafe_b64encode(b"[" * 40_000)
    assert checks.principal(deep + b"." + part({"sub": "alice"}) + b".AAAA") is None
    for payload in (deep, part([]), part("alice"), b"AAAA"):
        with pytest.raises(InvalidCredential):
            checks.principal(signed(part({"alg": "HS256"}) + b"." + payload))


def signed(signing_input: bytes) -> bytes:
    signature = jwt.get_algorithm_by_name("HS256").sign(signing_input, SECRET.encode())
    return signing_input + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


def sign_as_is(claims: dict[str, Any]) -> bytes:
    """An HS256 token with claims that a careful library would not write."""
    return signed(part({"alg": "HS256"}) + b"." + part({"sub": "alice", **claims}))


def test_a_token_without_a_subject_is_valid_and_names_nobody() -> None:
    token = jwt.encode({"scope": "read"}, SECRET, algorithm="HS256").encode()
    assert verifier(secret_keys(SECRET)).principal(token) == ""


@pytest.mark.parametrize("token", [b"", b"abc", b"a.b", b"a.b.c.d", b"a.b.c", b"..", b"\xff.\xff.\xff"])
def test_what_is_no_signed_token_is_nobodys(token: bytes) -> None:
    assert verifier(secret_keys(SECRET)).principal(token) is None


def test_an_unknown_critical_extension_is_refused() -> None:
    """RFC 7515 section 4.1.11."""
    token = jwt.encode({"sub": "alice"}, SECRET, algorithm="HS256", headers={"crit": ["exp2"], "exp2": 1}).encode()
    checks = verifier(secret_keys(SECRET))
    assert not lets_in(checks, token)


def test_a_secret_serves_the_algorithms_that_it_is_long_enough_for() -> None:
    assert [key.algorithm for key in secret_keys("x" * 32)] == ["HS256"]
    assert [key.algorithm for key in secret_keys("x" * 64)] == ["HS256", "HS384", "HS512"]
    with pytest.raises(ValueError, match="32 bytes"):
        secret_keys("x" * 31)
    with pytest.raises(ValueError, match="64"):
        secret_keys("x" * 32, ["HS512"])


def test_a_rotated_key_set_is_read_again() -> None:
    clock, file = Clock(), MemoryFile(jwks(jwk("ES256", kid="1")))
    checks = JwtVerifier([Watched(file, parse_jwks, clock=clock)])
    assert checks.principal(sign("ES256", kid="1")) == "jwt:alice"
    file.write(jwks(jwk("EdDSA", kid="2")))
    clock.advance(PERIOD)
    assert checks.principal(sign("EdDSA", kid="2")) == "jwt:alice"
    with pytest.raises(InvalidCredential):
        checks.principal(sign("ES256", kid="1"))


def test_a_remembered_token_is_checked_once_and_expires_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    checks = verifier(secret_keys(SECRET))
    decode = checks._decode

    def counting(token: str, key: Key) -> dict[str, Any]:
        checked.append(token)
        return decode(token, key)

    monkeypatch.setattr(checks, "_decode", counting)
    now = time.time()
    token = sign(exp=int(now) + 60)
    assert [checks.principal(token) for _ in range(3)] == ["jwt:alice"] * 3
    assert len(checked) == 1
    monkeypatch.setattr(time, "time", lambda: now + 61)
    with contextlib.suppress(InvalidCredential):  # PyJWT has a clock of its own
        checks.principal(token)
    assert len(checked) == 2


def test_a_token_that_has_expired_is_not_remembered_as_valid() -> None:
    checks = verifier(secret_keys(SECRET))
    token = sign(exp=int(time.time()) - 1)
    for _ in range(2):
        with pytest.raises(InvalidCredential):
            checks.principal(token)


def test_a_remembered_token_goes_with_its_key() -> None:
    clock, file = Clock(), MemoryFile(jwks(jwk("ES256")))
    checks = JwtVerifier([Watched(file, parse_jwks, clock=clock)])
    token = sign("ES256")
    assert lets_in(checks, token)
    file.write(jwks(jwk("EdDSA")))
    clock.advance(PERIOD)
    assert not lets_in(checks, token)


def test_no_more_tokens_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_jwt, "REMEMBERED", 3)
    checks = verifier(secret_keys(SECRET))
    for number in range(10):
        assert checks.principal(sign(n=number)) == "jwt:alice"
        assert not lets_in(checks, sign(key=SECRET[::-1], n=number))
        assert len(checks._remembered) == min(number + 1, 3)
