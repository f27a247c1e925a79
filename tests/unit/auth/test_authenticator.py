"""The whole check: which credential counts, what becomes of it, what a refused client is told."""

from __future__ import annotations

import jwt
import pytest

from streamproxy.auth import Authenticator, KeySets, build_authenticator
from streamproxy.auth.watched import File
from streamproxy.config.auth import Auth
from streamproxy.errors import Denied, StreamproxyError
from streamproxy.wire.headers import Headers
from tests.unit.auth.doubles import MemoryFile

SECRET = "0123456789abcdef0123456789abcdef"
EVERYWHERE = ["header", {"query": "access_token"}, {"cookie": "session"}]


def build(settings: dict[str, object], file: bytes | None = b"") -> Authenticator:
    def open_file(path: str) -> File:
        assert path == "/etc/tokens"
        return MemoryFile(file)

    return build_authenticator(Auth.model_validate(settings), open_file, KeySets(lambda: None))


def bearer(token: str) -> tuple[bytes, bytes]:
    return (b"authorization", f"Bearer {token}".encode())


BEARER: dict[str, object] = {"bearer": {"tokens": ["alpha", {"name": "bob", "token": "beta"}, {"file": "/etc/tokens"}]}}


def test_the_credential_is_taken_out_of_what_goes_on() -> None:
    auth = build(BEARER | {"from": EVERYWHERE})
    accept = (b"accept", b"*/*")
    assert auth.check([accept, bearer("beta")], b"a=1") == ("token:bob", [accept], b"a=1")
    assert auth.check([accept], b"a=1&access_token=beta") == ("token:bob", [accept], b"a=1")
    cookies: Headers = [accept, (b"cookie", b"x=1; session=beta")]
    assert auth.check(cookies, None) == ("token:bob", [accept, (b"cookie", b"x=1")], None)


def test_pass_lets_the_upstream_see_it() -> None:
    auth = build(BEARER | {"pass": "on"})
    assert auth.check([bearer("beta")], b"q") == ("token:bob", [bearer("beta")], b"q")


def test_a_place_that_is_not_configured_is_not_looked_at_and_not_touched() -> None:
    auth = build(BEARER | {"from": [{"query": "access_token"}]})
    with pytest.raises(Denied):
        auth.check([bearer("beta")], None)
    assert auth.check([bearer("for-upstream")], b"access_token=beta").headers == [bearer("for-upstream")]


def test_tokens_of_files_let_in() -> None:
    auth = build(BEARER, b"carol gamma\ndelta")
    assert auth.check([bearer("gamma")], None).principal == "token:carol"
    assert auth.check([bearer("delta")], None).principal.startswith("token:")


def test_signed_and_fixed_tokens_stand_beside_each_other() -> None:
    auth = build(BEARER | {"jwt": {"secret": SECRET}})
    token = jwt.encode({"sub": "alice"}, SECRET, algorithm="HS256")
    assert auth.check([bearer(token)], None).principal == "jwt:alice"
    assert auth.check([bearer("beta")], None).principal == "token:bob"


def test_a_signed_token_without_a_subject_is_told_apart_from_others() -> None:
    auth = build({"jwt": {"secret": SECRET}})
    tokens = [jwt.encode({"n": number}, SECRET, algorithm="HS256") for number in (1, 2, 1)]
    first, second, again = (auth.check([bearer(token)], None).principal for token in tokens)
    assert first == again != second


def test_a_request_without_a_credential_is_told_what_is_wanted() -> None:
    with pytest.raises(Denied) as denied:
        build(BEARER).check([(b"authorization", b"Basic Zm9v")], None)
    assert denied.value.status == 401
    assert denied.value.challenge == 'Bearer realm="streamproxy"'


@pytest.mark.parametrize("token", ["wrong", "", "alph", "eyJhbGciOiJub25lIn0.e30."])
def test_a_wrong_credential_is_called_wrong_and_not_repeated(token: str) -> None:
    auth = build(BEARER | {"jwt": {"secret": SECRET}})
    with pytest.raises(Denied) as denied:
        auth.check([bearer(token)], None)
    assert 'error="invalid_token"' in denied.value.challenge
    told = f"{denied.value.challenge} {denied.value.detail} {denied.value.note}"
    assert not token or token not in told


def test_two_credentials_in_one_place_are_refused_even_when_one_is_right() -> None:
    """The upstream might look at the other one."""
    auth = build(BEARER | {"from": EVERYWHERE, "pass": "on"})
    for headers, query in (
        ([bearer("beta"), bearer("wrong")], None),
        ([], b"access_token=wrong&access_token=beta"),
        ([(b"cookie", b"session=beta; session=wrong")], None),
    ):
        with pytest.raises(Denied):
            auth.check(headers, query)


def test_a_wrong_credential_in_one_place_does_not_hide_a_right_one_in_another() -> None:
    auth = build(BEARER | {"from": EVERYWHERE})
    assert auth.check([bearer("wrong")], b"access_token=beta").principal == "token:bob"


WRONG_ELSEWHERE: Headers = [bearer("wrong"), (b"authorization", b"bearer\twrong"), (b"cookie", b"x=1; session=wrong")]


@pytest.mark.parametrize("good", ["header", "query", "cookie"])
def test_once_let_in_no_place_carries_a_credential_on(good: str) -> None:
    auth = build(BEARER | {"from": EVERYWHERE})
    session = b"beta" if good == "cookie" else b"wrong"
    authorization = [bearer("beta")] if good == "header" else WRONG_ELSEWHERE[:2]
    query = b"a=1&access_token=" + (b"beta" if good == "query" else b"wrong") + b"&b"
    passed = auth.check([*authorization, (b"cookie", b"x=1; session=" + session)], query)
    assert passed == ("token:bob", [(b"cookie", b"x=1")], b"a=1&b")


def test_pass_leaves_every_place_as_it_was() -> None:
    auth = build(BEARER | {"from": EVERYWHERE, "pass": "on"})
    assert auth.check(WRONG_ELSEWHERE, b"access_token=beta") == ("token:bob", WRONG_ELSEWHERE, b"access_token=beta")


def test_another_scheme_is_no_credential_here_and_goes_on() -> None:
    auth = build(BEARER | {"from": EVERYWHERE})
    basic = (b"authorization", b"Basic Zm9vOmJhcg==")
    assert auth.check([basic], b"access_token=beta").headers == [basic]
    assert auth.check([basic, bearer("beta")], None).headers == [basic]


def test_an_empty_file_of_tokens_lets_nobody_in() -> None:
    auth = build({"bearer": {"tokens": [{"file": "/etc/tokens"}]}}, b"\n")
    for headers in ([], [bearer("")], [bearer("x")]):
        with pytest.raises(Denied):
            auth.check(headers, None)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        (None, {"bearer": {"tokens": [{"file": "/etc/tokens"}]}}, "/etc/tokens cannot be used: No such file"),
        (b"a, b", {"bearer": {"tokens": [{"file": "/etc/tokens"}]}}, "/etc/tokens cannot be used: line 1"),
        (b"{}", {"jwt": {"jwks_file": "/etc/tokens"}}, "/etc/tokens cannot be used: it is not a JWK Set"),
        (b"", {"jwt": {"secret": "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----"}}, "jwks_file"),
    ],
)
def test_what_cannot_be_used_is_said_when_the_route_is_built(
    file: bytes | None, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(StreamproxyError, match=message):
        build(settings, file)
