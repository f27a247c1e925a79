"""What both LLM APIs of the demo share: reading a request, and the answer that it gets.

The "model" answers every prompt with the same short text about streams, a word at a time. A token is a word: usage
counts the words of the prompt and of the answer, so that it can be checked by eye.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from streamproxy.demo.call import Refused

MODEL = "demo-1"
TEXT = (
    "A stream brings an answer while it is still being made. Each word leaves the model, passes the proxy and reaches "
    "you at once; nothing waits for a fuller buffer or for a timer. While the model thinks, a comment keeps the line "
    "open, and only ever between two events. When you leave, the work behind the stream ends with you."
)
TOKENS = tuple(re.findall(r"\S+ ?", TEXT))


class Completion(NamedTuple):
    """The answer to one prompt."""

    id: str  # the same for the same request body
    model: str
    tokens: tuple[str, ...]
    prompt_tokens: int
    stream: bool
    include_usage: bool  # OpenAI's stream_options.include_usage

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def cut(self) -> bool:
        """Whether the limit of the request ended the text."""
        return len(self.tokens) < len(TOKENS)


def complete(body: bytes, *limits: str) -> Completion:
    """The completion for a request body; ``limits`` are the API's names for the most tokens it may have.

    Raises Refused (400) for a body that is not a JSON object, or has no messages or an impossible limit.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The request body is not valid JSON") from None
    if not isinstance(request, dict):
        raise Refused(400, "The request body is not a JSON object")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages is a list of at least one message", param="messages")
    if not all(isinstance(message, dict) for message in messages):
        raise Refused(400, "Every message is an object with a role and a content", param="messages")
    options = request.get("stream_options")
    model = request.get("model")
    return Completion(
        id=hashlib.sha256(body).hexdigest()[:24],
        model=model if isinstance(model, str) and model else MODEL,
        tokens=TOKENS[: _limit(request, limits)],
        prompt_tokens=_words(request.get("system")) + sum(_words(message.get("content")) for message in messages),
        stream=request.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _limit(request: dict[str, Any], names: tuple[str, ...]) -> int:
    limit = len(TOKENS)
    for name in names:
        value = request.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise Refused(400, f"{name} is a whole number of at least 1", param=name)
        limit = min(limit, value)
    return limit


def _words(content: object) -> int:
    """The words of a content: a text, or a list of parts of which some have a text."""
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, list):
        return sum(_words(part.get("text")) for part in content if isinstance(part, dict))
    return 0
