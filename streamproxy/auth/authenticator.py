"""One check of a request: find its credential, ask who it is, and take it out of what goes upstream."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from streamproxy.auth.credentials import InvalidCredential, Request, Source
from streamproxy.errors import Denied
from streamproxy.wire.headers import Headers

_CHALLENGE = 'Bearer realm="streamproxy"'
_CHALLENGE_INVALID = f'{_CHALLENGE}, error="invalid_token", error_description="The credential is not valid"'


class Verifier(Protocol):
    """Knows one kind of credential."""

    def principal(self, token: bytes) -> str | None:
        """Whose it is; empty when it is valid and names nobody, None when it is none of this kind.

        Raises InvalidCredential for one of this kind that does not let in.
        """
        ...


class Passed(NamedTuple):
    """A request that was let in: who it is from, and how it goes on."""

    principal: str
    headers: Headers
    query: bytes | None


class Authenticator:
    """Lets requests in that carry a valid credential in one of the sources.

    The first credential that is valid counts, in the order of ``sources``. Unless ``pass_on`` every source is emptied
    then, not only that one: what else they carry was meant for this proxy too, and an upstream that also knows tokens
    might take it for somebody else's. One source that carries two credentials is refused for the same reason.
    """

    def __init__(self, verifiers: Sequence[Verifier], sources: Sequence[Source], *, pass_on: bool = False) -> None:
        self._verifiers = tuple(verifiers)
        self._sources = tuple(sources)
        self._pass_on = pass_on

    def check(self, headers: Headers, query: bytes | None) -> Passed:
        """Let a request in. Raises Denied, with the challenge for WWW-Authenticate (RFC 6750 section 3)."""
        request = Request(headers, query)
        faults: list[str] = []
        for source in self._sources:
            tokens = source.find(request)
            if not tokens:
                continue
            if len(tokens) > 1:
                faults.append("it came twice")
                continue
            principal = self._principal(tokens[0], faults)
            if principal is not None:
                return Passed(principal, *(request if self._pass_on else self._stripped(request)))
        if not faults:
            raise Denied(challenge=_CHALLENGE, note="there is no credential")
        raise Denied(
            "The credential is not valid", challenge=_CHALLENGE_INVALID, note="credential refused: " + "; ".join(faults)
        )

    def _stripped(self, request: Request) -> Request:
        for source in self._sources:
            request = source.strip(request)
        return request

    def _principal(self, token: bytes, faults: list[str]) -> str | None:
        for verifier in self._verifiers:
            try:
                principal = verifier.principal(token)
            except InvalidCredential as error:
                faults.append(str(error))
                return None
            if principal is not None:
                return principal or f"token:{sha256(token).hexdigest()[:12]}"
        faults.append("it is not known")
        return None
