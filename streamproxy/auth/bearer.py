"""Fixed bearer tokens (RFC 6750).

What is kept of a token is its SHA-256: digests have one length, so that comparing them tells nothing of a token's
length, and every comparison runs to its end and over all tokens, whether or not one was right already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

from streamproxy.config.route import bearer_token
from streamproxy.config.values import name


class Known(NamedTuple):
    """A token that lets in: its digest, and who its bearer is."""

    digest: bytes
    principal: str


def known(token: str, owner: str | None = None) -> Known:
    """A token by its text. Without an ``owner`` its bearer is called by the beginning of its digest.

    Raises ValueError for what can't be a token, which an empty one is; the text is not repeated.
    """
    digest = sha256(bearer_token(token).encode()).digest()
    return Known(digest, f"token:{owner or digest.hex()[:12]}")


def parse_tokens(data: bytes) -> tuple[Known, ...]:
    """The tokens of a file: one a line, alone or behind a name and white space. ``#`` begins a comment.

    Raises ValueError with the number of the line that is wrong, and never its text.
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
                tokens.append(known(words[-1], name(words[0]) if len(words) == 2 else None))
            except ValueError as error:
                raise ValueError(f"line {number} {error}") from None
    return tuple(tokens)


class BearerTokens:
    """Tokens of the configuration and of files, all of which let in."""

    def __init__(self, tokens: Iterable[Known], files: Sequence[Callable[[], Iterable[Known]]] = ()) -> None:
        self._tokens = tuple(tokens)
        self._files = tuple(files)

    def principal(self, token: bytes) -> str | None:
        """Whose token it is, None for nobody's."""
        digest = sha256(token).digest()
        found = self._among(digest, self._tokens)
        for tokens in self._files:
            found = self._among(digest, tokens()) or found
        return found

    @staticmethod
    def _among(digest: bytes, tokens: Iterable[Known]) -> str | None:
        found = None
        for each in tokens:
            if compare_digest(each.digest, digest):
                found = each.principal
        return found
