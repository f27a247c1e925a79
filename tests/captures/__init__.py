"""What inference engines send, byte for byte, and what is to be understood of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from streamproxy.formats.inspector import Usage

HERE: Final = Path(__file__).parent
OPENAI, ANTHROPIC, OLLAMA = "/v1/chat/completions", "/v1/messages", "/api/chat"
COMPLETIONS, RESPONSES = "/v1/completions", "/v1/responses"


class Capture(NamedTuple):
    """A stream, and how it ends: the ``end`` of the access log, and the ``failure``'s message if it reports one.

    One of an engine's own API, which is of no kind that is known, has no ``model``.
    """

    file: str
    usage: Usage | None = None
    finish: str = ""
    model: str = "qwen3-8b"
    end: str = "complete"
    failure: str = ""
    path: str = OPENAI
    speaks: bool = True

    @property
    def body(self) -> bytes:
        """The bytes."""
        return (HERE / self.file).read_bytes()

    @property
    def media(self) -> str:
        """The media type that the engine gives it."""
        return "application/x-ndjson" if self.file.endswith(".ndjson") else "text/event-stream"


class Refusal(NamedTuple):
    """A response without a stream: an error before the head."""

    file: str
    status: int
    path: str = OPENAI

    @property
    def body(self) -> bytes:
        """The bytes."""
        return (HERE / self.file).read_bytes()


LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
TRTLLM = "llama-3.1-8b"
CAPTURES: Final = [
    Capture("vllm/chat.sse", Usage(31, 3, 16), "stop"),
    Capture("vllm/chat-continuous.sse", Usage(31, 6, reasoning=2), "length"),
    Capture("vllm/chat-tools.sse", Usage(180, 24), "tool_calls"),
    Capture("vllm/chat-error.sse", end="upstream_error", failure="Internal server error"),
    Capture("vllm/messages.sse", Usage(31, 9), "end_turn", path=ANTHROPIC),
    Capture(
        "vllm/messages-error.sse",
        Usage(31, 0),
        end="upstream_error",
        failure="1 validation error",
        path=ANTHROPIC,
        speaks=False,
    ),
    Capture("vllm/chat-abort.sse", None, "abort"),
    Capture("vllm/completions.sse", Usage(7, 3, 0), "length", path=COMPLETIONS),
    Capture("vllm/completions-whole.sse", Usage(7, 1), "stop", path=COMPLETIONS),
    Capture(
        "vllm/completions-error.sse",
        model="",
        end="upstream_error",
        failure="Internal server error",
        path=COMPLETIONS,
        speaks=False,
    ),
    Capture("vllm/responses.sse", Usage(31, 5, 16, reasoning=2), "completed", path=RESPONSES),
    Capture("vllm/responses-cut.sse", end="upstream_truncated", path=RESPONSES),
    Capture("sglang/chat.sse", Usage(20, 9, 12, reasoning=4), "stop"),
    Capture("sglang/chat-continuous.sse", Usage(20, 2, reasoning=0), "stop"),
    Capture("sglang/chat-tools.sse", None, "tool_calls"),
    Capture(
        "sglang/chat-abort.sse",
        Usage(20, 1, reasoning=0),
        end="upstream_error",
        failure="Request timed out while running.",
    ),
    Capture("sglang/completions.sse", Usage(7, 2, 4, reasoning=0), "stop", path=COMPLETIONS),
    Capture(
        "sglang/completions-timeout.sse",
        model="",
        end="upstream_error",
        failure="Request waiting timeout reached.",
        path=COMPLETIONS,
        speaks=False,
    ),
    Capture("sglang/generate.sse", model="", path="/generate"),
    Capture("sglang/generate-error.sse", model="", path="/generate"),
    Capture("tgi/chat.sse", Usage(36, 2), "stop", LLAMA),
    Capture("tgi/chat-tools.sse", Usage(210, 31), "", LLAMA),
    Capture(
        "tgi/chat-error.sse",
        model=LLAMA,
        end="upstream_error",
        failure="Request failed during generation: Server error: CUDA out of memory",
    ),
    Capture("tgi/completions.sse", Usage(6, 3), "length", LLAMA, path=COMPLETIONS),
    Capture(
        "tgi/completions-error.sse",
        model=LLAMA,
        end="upstream_error",
        failure="Request failed during generation: Server error: CUDA out of memory",
        path=COMPLETIONS,
    ),
    Capture("tgi/generate-stream.sse", model="", path="/generate_stream"),
    Capture("trtllm/chat.sse", Usage(40, 6, 32), "stop", TRTLLM),
    Capture("trtllm/chat-tools-continuous.sse", Usage(40, 13, 0), "tool_calls", TRTLLM),
    Capture("trtllm/chat-cut.sse", model=TRTLLM, end="upstream_truncated"),
    Capture("trtllm/completions.sse", Usage(6, 2, 0), "length", TRTLLM, path=COMPLETIONS),
    Capture(
        "trtllm/completions-error.sse",
        model=TRTLLM,
        end="upstream_error",
        failure="Request 5 failed: CUDA error",
        path=COMPLETIONS,
    ),
    Capture("trtllm/responses.sse", Usage(40, 64, 0, reasoning=0), "max_output_tokens", TRTLLM, path=RESPONSES),
    Capture("llamacpp/chat.sse", Usage(31, 8), "stop", "smollm2"),
    Capture("llamacpp/chat-tools.sse", None, "tool_calls", "smollm2"),
    Capture(
        "llamacpp/chat-error.sse",
        model="smollm2",
        end="upstream_error",
        failure="Context size has been exceeded.",
    ),
    Capture("llamacpp/completions.sse", Usage(6, 2, 4), "length", "smollm2", path=COMPLETIONS),
    Capture("llamacpp/completion.sse", model="", path="/completion"),
    Capture("ollama/chat.ndjson", Usage(26, 8), "stop", "qwen3:0.6b", path=OLLAMA),
    Capture("ollama/chat-tools.ndjson", Usage(160, 22), "stop", "qwen3:0.6b", path=OLLAMA),
    Capture(
        "ollama/chat-error.ndjson",
        model="qwen3:0.6b",
        end="upstream_error",
        failure="an error was encountered while running the model: unexpected EOF",
        path=OLLAMA,
    ),
    Capture("ollama/openai-chat.sse", Usage(26, 8), "stop", "qwen3:0.6b"),
    Capture("ollama/openai-chat-error.sse", model="qwen3:0.6b", end="upstream_truncated"),
]

REFUSALS: Final = [
    Refusal("vllm/404.json", 404),
    Refusal("sglang/400.json", 400),
    Refusal("tgi/429.json", 429),
    Refusal("trtllm/400.json", 400),
    Refusal("llamacpp/503.json", 503),
    Refusal("ollama/503.json", 503, OLLAMA),
]

# Running, waiting, and the share of the cache, in ``ENGINE/metrics.txt``.
LOADS: Final = {
    "vllm": (9.0, 2.0, 0.31),
    "sglang": (7.0, 3.0, 0.62),
    "tgi": (12.0, 4.0, None),
    "trtllm": (6.0, 1.0, 0.44),
    "llamacpp": (2.0, 9.0, None),
}
