"""The common parts of the demo's LLM APIs: reading a request, and the text of the answer.

The "model" answers every prompt with the same short text about streams, word by word. A token is a word: usage counts
the words of the prompt and of the answer, so that it is easy to check. The model `FAILING` fails after
`TOKENS_BEFORE_FAILURE` tokens, in the form of the API.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from streamproxy.demo.call import Refused

MODEL = "demo-1"
MODELS = (MODEL, "demo-2")
FAILING = "demo-fails"
TOKENS_BEFORE_FAILURE = 5
FAILURE = "The engine of the demo has failed on purpose"
TEXT = (
    "A stream brings an answer while it is still being made. Each word leaves the model, passes the proxy and reaches "
    "you at once; nothing waits for a fuller buffer or for a timer. While the model thinks, a comment keeps the line "
    "open, and only ever between two events. When you leave, the work behind the stream ends with you."
)
TOKENS = tuple(re.findall(r"\S+ ?", TEXT))


class Form(NamedTuple):
    """The form of an API's requests: the keys of the prompt and of the maximum tokens of the answer."""

    prompt: str  # its key; the value is a list of messages, or a text if ``text`` is set
    limits: tuple[str, ...] = ()
    inside: str = ""  # the key of the mapping that contains the limits, if they are in one
    text: bool = False
    streams: bool = False  # the default


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
        """Whether the text was cut at the request's limit."""
        return len(self.tokens) < len(TOKENS) and not self.fails

    @property
    def fails(self) -> bool:
        """Whether the engine fails after the last token."""
        return self.model == FAILING


def complete(body: bytes, form: Form) -> Completion:
    """Returns the completion for a request body in the form of an API.

    Raises Refused (400) for a body that is not a JSON object, or has no prompt or an invalid limit.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The request body is not valid JSON") from None
    if not isinstance(request, dict):
        raise Refused(400, "The request body is not a JSON object")
    options = request.get("stream_options")
    model = request.get("model")
    model = model if isinstance(model, str) and model else MODEL
    limits = request.get(form.inside) if form.inside else request
    most = _limit(limits if isinstance(limits, dict) else {}, form.limits)
    return Completion(
        id=hashlib.sha256(body).hexdigest()[:24],
        model=model,
        tokens=TOKENS[: min(most, TOKENS_BEFORE_FAILURE) if model == FAILING else most],
        prompt_tokens=_words(request.get("system")) + _prompt(request, form),
        stream=request.get("stream", form.streams) is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _prompt(request: dict[str, Any], form: Form) -> int:
    """Returns the words of the prompt. Raises Refused."""
    prompt, name = request.get(form.prompt), form.prompt
    if form.text and isinstance(prompt, str) and prompt:
        return _words(prompt)
    if not isinstance(prompt, list) or not prompt:
        raise Refused(400, f"{name} is a list of at least one message", param=name)
    if not all(isinstance(message, dict) for message in prompt):
        raise Refused(400, "Every message is an object with a role and a content", param=name)
    return sum(_words(message.get("content")) + _words(message.get("parts")) for message in prompt)


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
    """Returns the words of a content: a text, or a list of parts, some of which have a text."""
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, list):
        return sum(_words(part.get("text")) for part in content if isinstance(part, dict))
    return 0
