"""Static bearer tokens (RFC 6750).

Only the SHA-256 digests of tokens are kept. Digests have equal lengths, so a comparison reveals nothing of a token's
length. Each check compares all tokens in constant time, whether or not one has matched already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

from streamproxy.config.auth import bearer_token
from streamproxy.config.values import name


class TokenDigest(NamedTuple):
    """The digest of an accepted token, and the principal of its bearer."""

    digest: bytes
    principal: str


def digest_token(token: str, owner: str | None = None) -> TokenDigest:
    """Returns the digest of a token. Without an ``owner`` the principal is the beginning of the digest.

    Raises ValueError for text that cannot be a token, such as empty text; the message does not contain the text.
    """
    digest = sha256(bearer_token(token).encode()).digest()
    return TokenDigest(digest, f"token:{owner or digest.hex()[:12]}")


def parse_tokens(data: bytes) -> tuple[TokenDigest, ...]:
    """Returns the tokens of a file: one a line, alone or after a name and white space. ``#`` begins a comment.

    Raises ValueError with the number of the invalid line, never its text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 2:
            raise ValueError(f"line {number} must be a token, or a name and a token")
        if words:
            try:
                tokens.append(digest_token(words[-1], name(words[0]) if len(words) == 2 else None))
            except ValueError as error:
                raise ValueError(f"line {number} {error}") from None
    return tuple(tokens)


class BearerTokens:
    """Tokens from the configuration and from files; each of them is accepted."""

    def __init__(
        self, tokens: Iterable[TokenDigest], files: Sequence[Callable[[], Iterable[TokenDigest]]] = ()
    ) -> None:
        self._tokens = tuple(tokens)
        self._files = tuple(files)

    def principal(self, token: bytes) -> str | None:
        """Returns the principal of a token, or None if the token is unknown."""
        digest = sha256(token).digest()
        found = self._among(digest, self._tokens)
        for tokens in self._files:
            found = self._among(digest, tokens()) or found
        return found

    def wanting(self, token: bytes) -> None:
        """Returns None: the tokens are in files and in the configuration."""

    @staticmethod
    def _among(digest: bytes, tokens: Iterable[TokenDigest]) -> str | None:
        found = None
        for each in tokens:
            if compare_digest(each.digest, digest):
                found = each.principal
        return found
