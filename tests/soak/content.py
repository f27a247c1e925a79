"""What the backends send and the clients check: every byte follows from a seed, but for the time in each event."""

from __future__ import annotations

import hashlib
import re

_EVENT = re.compile(rb"(\w+) (\d+)\.(\d+) (\d+)")


def event_text(name: str, seed: int, number: int, at: int) -> str:
    """The content of an event: the backend's name, the stream's seed, the event's number, and when it was sent (ns)."""
    return f"{name} {seed}.{number} {at}"


def parse_event(text: bytes) -> tuple[str, int, int, int]:
    """Takes an event's content apart. Raises ValueError if it is not one."""
    match = _EVENT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an event: {text!r}")
    return match[1].decode(), int(match[2]), int(match[3]), int(match[4])


def llm_event(text: str) -> bytes:
    """A chunk of a chat completion with this content."""
    return b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":' + (
        b'{"content":"%b"},"finish_reason":null}]}\n\n' % text.encode()
    )


LLM_PATTERN = re.compile(re.escape(llm_event("@@")).replace(b"@@", b'([^"]*)'))
DONE = b"data: [DONE]\n\n"


def file_bytes(seed: int, size: int) -> bytes:
    """A file's content."""
    block = b"".join(hashlib.sha256(b"%d.%d" % (seed, number)).digest() for number in range(64))
    return (block * (size // len(block) + 1))[:size]
