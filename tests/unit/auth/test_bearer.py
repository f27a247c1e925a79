"""Bearer tokens: which let in, the files that hold them, and who is behind one."""

from __future__ import annotations

import hmac
import logging

import pytest

from streamproxy.auth import bearer
from streamproxy.auth.bearer import BearerTokens, digest_token, parse_tokens
from streamproxy.auth.watched import PERIOD, Watched
from tests.doubles.clock import Clock
from tests.unit.auth.doubles import MemoryFile


def test_only_a_token_that_is_known_has_a_principal() -> None:
    tokens = BearerTokens([digest_token("alpha", "alice"), digest_token("beta")])
    assert tokens.principal(b"alpha") == "token:alice"
    assert tokens.principal(b"beta") == "token:f44e64e75f39"  # the beginning of its SHA-256
    assert [tokens.principal(wrong) for wrong in (b"", b"alph", b"alphaa", b"Alpha", b"\xff")] == [None] * 5


@pytest.mark.parametrize("text", ["", " ", "x y", "tök", "x,y", "=x", "x\n"])
def test_what_cannot_be_a_token_is_refused_unseen(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a bearer token: ") as refused:
        digest_token(text)
    assert not text.strip() or text not in str(refused.value)


def test_every_token_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counting(first: bytes, second: bytes) -> bool:
        compared.append(len(first) == len(second) == 32)
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(bearer, "compare_digest", counting)
    tokens = BearerTokens([digest_token("a"), digest_token("b")], [lambda: [digest_token("c")]])
    for token in (b"a", b"c", b"a longer one that is wrong"):
        compared.clear()
        tokens.principal(token)
        assert compared == [True, True, True]


def test_a_file_has_a_token_a_line_with_names_and_comments() -> None:
    tokens = parse_tokens(b"\xef\xbb\xbf# ours\nalpha\r\n\nalice\tbeta==  # hers\n")
    assert tokens == (digest_token("alpha"), digest_token("beta==", "alice"))
    assert parse_tokens(b"") == ()


@pytest.mark.parametrize("data", [b"good\nalice her secret", b"good\nse,cret", b"good\nsecret: a"])
def test_a_wrong_line_is_named_by_its_number_and_not_shown(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^line 2 ") as refused:
        parse_tokens(data)
    assert "cret" not in str(refused.value)


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not() -> None:
    clock, file = Clock(), MemoryFile(b"alpha")
    tokens = BearerTokens([], [Watched(file, parse_tokens, clock=clock)])
    assert tokens.principal(b"alpha")
    file.write(b"beta")
    assert tokens.principal(b"alpha"), "looked at again too soon"
    clock.advance(PERIOD)
    assert (tokens.principal(b"alpha"), bool(tokens.principal(b"beta"))) == (None, True)
    file.data = b"gamma"  # behind its back: the version is the same
    clock.advance(PERIOD)
    assert tokens.principal(b"gamma") is None


@pytest.mark.parametrize("broken", [None, b"not, a token", b"\xff\xfe"])
def test_a_file_that_breaks_changes_nothing_and_is_reported_once(
    broken: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock, file = Clock(), MemoryFile(b"alpha")
    tokens = BearerTokens([], [Watched(file, parse_tokens, clock=clock)])
    file.write(broken)
    with caplog.at_level(logging.ERROR, "streamproxy.auth"):
        for _ in range(3):
            clock.advance(PERIOD)
            assert tokens.principal(b"alpha")
    assert len(caplog.records) == 1
    assert "/etc/tokens cannot be used" in caplog.text
    file.write(b"beta")
    clock.advance(PERIOD)
    assert tokens.principal(b"beta")


def test_a_file_that_is_broken_at_the_beginning_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        Watched(MemoryFile(None), parse_tokens)
    with pytest.raises(ValueError, match="line 1"):
        Watched(MemoryFile(b"a, b"), parse_tokens)
