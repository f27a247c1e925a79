"""What the users of each SDK are to see: the text, and the class, the status and the message of its exception."""

from __future__ import annotations

from typing import NamedTuple

from tests.integration.sdks.users import End, Seen

FAILURE = "no memory"  # what the engine says of itself
SAID = 0  # for the status that an event says


class Errors(NamedTuple):
    """The classes of an SDK's exceptions, by the status of a response."""

    denied: str  # 401
    limited: str  # 429
    failed: str  # 502


class Sdk:
    """``inside`` is the exception of an error event, ``first`` that of one which comes first, where it is another.

    ``cut`` is that of a stream which breaks off. ``left`` are those of code that stops before there is a head, and
    later.
    """

    def __init__(self, errors: Errors, inside: End, cut: End, left: tuple[str, str], first: End | None = None) -> None:
        self.errors = errors
        self.inside = inside
        self.cut = cut
        self.left = left
        self.first = first or inside

    def refused(self, status: int, message: str) -> Seen:
        """A response with this status."""
        by_status = {401: self.errors.denied, 429: self.errors.limited, 502: self.errors.failed}
        return Seen("", End(by_status[status], status, message))

    def told(self, text: str, status: int, message: str) -> Seen:
        """An error event of the proxy, or of an engine."""
        error = self.inside if text else self.first
        return Seen(text, End(error.name, status if error.status == SAID else error.status, message))

    def failure(self) -> Seen:
        """The word, and the failure of the engine behind it."""
        return self.told("word", 500, FAILURE)

    def whole(self, text: str) -> Seen:
        """All of a stream."""
        return Seen(text, End())

    def broken(self) -> Seen:
        """A word, and no end."""
        return Seen("word", self.cut)

    def late(self, message: str) -> Seen:
        """Nothing before an error, to which the proxy could give its head ahead of the engine."""
        return self.told("", 502, message)

    def stopped(self, text: str, before_head: bool) -> Seen:
        """The user's own end of a stream."""
        return Seen(text, End(self.left[0 if before_head else 1]))


class ResponsesSdk(Sdk):
    """It takes ``response.failed`` for an event as any other."""

    def failure(self) -> Seen:
        return Seen(f"word[{FAILURE}]", End())


class OllamaSdk(Sdk):
    """There is no head ahead of the engine's: its streams are lines."""

    def late(self, message: str) -> Seen:
        return self.refused(502, message)


class Raw(Sdk):
    """It prints the message of an error as any other text."""

    def told(self, text: str, status: int, message: str) -> Seen:
        return Seen(text + message, self.cut)

    def failure(self) -> Seen:
        return Seen(f"word{FAILURE}", End())


class CurlRaw(Raw):
    """It says no more of a response with an error than its status."""

    def refused(self, status: int, message: str) -> Seen:
        return Seen("", End("curl 22", None, f"error: {status}"))


class EventSource(Sdk):
    """It asks again when a stream has ended, however it did, and gives up where the response is an error.

    Its stream is one of no API, so that there is no marker that could be missing.
    """

    def refused(self, status: int, message: str) -> Seen:
        return Seen("", End("Error", None, "refused"))

    def told(self, text: str, status: int, message: str) -> Seen:
        return Seen(text + ("" if "marker" in message else f"[{message}]"), self.cut)

    def whole(self, text: str) -> Seen:
        return Seen(text, self.cut)


_OPENAI = Errors("AuthenticationError", "RateLimitError", "InternalServerError")
_OPENAI_CUT = End("APIConnectionError", None, "Connection error")
_HTTPX_CUT = End("RemoteProtocolError", None, "peer closed connection without sending complete message body")
_CANCELLED = ("CancelledError", "CancelledError")

PYTHON: dict[str, Sdk] = {
    "openai": Sdk(_OPENAI, End("APIError"), _OPENAI_CUT, _CANCELLED),
    "responses": ResponsesSdk(_OPENAI, End("APIError"), _OPENAI_CUT, _CANCELLED),
    "anthropic": Sdk(_OPENAI, End("APIStatusError", 200), _HTTPX_CUT, _CANCELLED),
    "genai": Sdk(Errors("ClientError", "ClientError", "ServerError"), End("ServerError", SAID), _HTTPX_CUT, _CANCELLED),
    "ollama": OllamaSdk(Errors(*["ResponseError"] * 3), End("ResponseError", -1), _HTTPX_CUT, _CANCELLED),
}

_FETCH_CUT = End("TypeError", None, "terminated")
_ABORTED = ("APIUserAbortError", "")
_DOM = ("DOMException", "DOMException")
_AI_ERRORS = Errors(*["APICallError"] * 3)
_AI_CUT = End("APICallError", 200, "Failed to process successful response")
_AI_FIRST = End("APICallError", 500)

NODE: dict[str, Sdk] = {
    "openai": Sdk(_OPENAI, End("APIError"), _FETCH_CUT, _ABORTED),
    "responses": ResponsesSdk(_OPENAI, End("APIError"), _FETCH_CUT, _ABORTED),
    "anthropic": Sdk(_OPENAI, End("APIError"), _FETCH_CUT, _ABORTED),
    "genai": Sdk(Errors(*["ApiError"] * 3), End("ApiError", SAID), _FETCH_CUT, _DOM),
    "ollama": OllamaSdk(Errors(*["ResponseError"] * 3), End("Error"), _FETCH_CUT, _DOM),
    "ai": Sdk(_AI_ERRORS, End("Object"), _AI_CUT, _DOM, _AI_FIRST),
    "ai-responses": Sdk(_AI_ERRORS, End("Object", 500), _AI_CUT, _DOM, _AI_FIRST),
    "fetch": Raw(Errors(*["Error"] * 3), End(), _FETCH_CUT, _DOM),
}

CURL = CurlRaw(Errors("", "", ""), End(), End("curl 18", None, "transfer closed"), ("curl -15", "curl -15"))

CHROMIUM: dict[str, Sdk] = {
    "fetch": Raw(Errors(*["Error"] * 3), End(), End("TypeError", None, "network error"), _DOM),
    "EventSource": EventSource(Errors("", "", ""), End(), End("Error", None, "lost"), _DOM),
}
