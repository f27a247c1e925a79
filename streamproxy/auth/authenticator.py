"""Authenticates a request: finds its credential, verifies it, and removes it from what goes upstream."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from streamproxy.auth.credentials import InvalidCredential, NoKeys, Request, Source
from streamproxy.auth.remote import KeySet
from streamproxy.errors import Denied, KeysUnknown
from streamproxy.wire.headers import Headers

_CHALLENGE = 'Bearer realm="streamproxy"'
_CHALLENGE_INVALID = f'{_CHALLENGE}, error="invalid_token", error_description="The credential is not valid"'


class Verifier(Protocol):
    """Verifies one kind of credential."""

    def principal(self, token: bytes) -> str | None:
        """Returns the principal of a credential: empty if valid but unnamed, None if it is not of this kind.

        Raises InvalidCredential for a credential of this kind that is not valid.
        """
        ...

    def wanting(self, token: bytes) -> KeySet | None:
        """Returns the set of keys that ought to be read again, since a credential of this kind needs another key."""
        ...


class Passed(NamedTuple):
    """An authenticated request: its principal, and its headers and query to send upstream."""

    principal: str
    headers: Headers
    query: bytes | None


class Authenticator:
    """Authenticates requests that carry a valid credential in one of the sources.

    The sources are searched in order, and the first valid credential counts. Unless ``pass_on`` is set, every source is
    then emptied, not only the one that was used: the other credentials were also meant for this proxy, and an upstream
    that checks tokens itself could take one for another user's. For the same reason, two credentials in one source are
    refused.

    If ``waits`` is set, `prepare` has to be awaited before `check`.
    """

    def __init__(
        self, verifiers: Sequence[Verifier], sources: Sequence[Source], *, pass_on: bool = False, waits: bool = False
    ) -> None:
        self.waits = waits
        self._verifiers = tuple(verifiers)
        self._sources = tuple(sources)
        self._pass_on = pass_on

    async def prepare(self, headers: Headers, query: bytes | None) -> None:
        """Waits for keys that a request's credentials need and that are not known yet, for a bounded time."""
        request = Request(headers, query)
        for source in self._sources:
            for token in source.find(request)[:1]:
                for verifier in self._verifiers:
                    keys = verifier.wanting(token)
                    if keys is not None:
                        await keys.refresh()

    def check(self, headers: Headers, query: bytes | None) -> Passed:
        """Authenticates a request.

        Raises Denied with the challenge for WWW-Authenticate (RFC 6750 section 3), and KeysUnknown if there are no keys
        to check a credential with.
        """
        request = Request(headers, query)
        faults: list[str] = []
        unknown = False
        for source in self._sources:
            tokens = source.find(request)
            if not tokens:
                continue
            if len(tokens) > 1:
                faults.append("it came twice")
                continue
            try:
                principal = self._principal(tokens[0], faults)
            except NoKeys:
                unknown = True
                continue
            if principal is not None:
                return Passed(principal, *(request if self._pass_on else self._stripped(request)))
        if unknown:
            raise KeysUnknown()
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
            except NoKeys:
                raise
            except InvalidCredential as error:
                faults.append(str(error))
                return None
            if principal is not None:
                return principal or f"token:{sha256(token).hexdigest()[:12]}"
        faults.append("it is not known")
        return None
