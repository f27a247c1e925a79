"""How fast a request's body is read for its ``model``: ``python -m benchmarks.scan``.

Bodies of 10 MB have ``model`` as their last member, which is the worst place for it. They come in chunks of 64 KiB, as
from a socket. Times are CPU time of one core; the best of several rounds counts, so that a busy machine says the same.
To measure the compiled build, put it first on PYTHONPATH: ``PYTHONPATH=build/compiled python -m benchmarks.scan``.
"""

from __future__ import annotations

import base64
import json
import random
import time
from typing import Any, Final

from streamproxy.dialects.request import request_scanner
from streamproxy.version import BUILD

SIZE: Final = 10_000_000  # bytes
CHUNK: Final = 64 << 10
ROUNDS: Final = 7


def bodies() -> dict[str, bytes]:
    """Bodies of requests, by what most of their bytes are."""
    rng = random.Random(1)
    words = ["stream", "token", "the", "of", "proxy", "and", "a", "model", "while", "answers"]
    prose = " ".join(rng.choice(words) for _ in range(SIZE // 5))
    code = 'if x == "y":\n\tprint("\\n")\n' * (SIZE // 40)
    image = base64.b64encode(rng.randbytes(SIZE * 3 // 4)).decode()
    call = {"name": "f", "arguments": {"x": 1, "y": [1, 2, 3], "ok": True, "unit": "m"}}
    return {
        "one prompt": _body([{"role": "user", "content": prose[:SIZE]}]),
        "messages of 400 bytes": _body([_message(prose, at) for at in range(0, SIZE, 440)]),
        "an image in base64": _body([{"role": "user", "content": image}]),
        "code, escaped": _body([{"role": "user", "content": code}]),
        "calls of tools": _body([{"role": "assistant", "tool_calls": [call]} for _ in range(SIZE // 124)]),
    }


def _message(prose: str, at: int) -> dict[str, str]:
    return {"role": "user", "content": prose[at : at + 400]}


def _body(messages: list[dict[str, Any]]) -> bytes:
    return json.dumps({"stream": True, "messages": messages, "model": "bench"}, separators=(",", ":")).encode()


def speed(body: bytes) -> float:
    """Megabytes a second of CPU time in which a body is scanned, at its best."""
    chunks = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    best = float("inf")
    for _ in range(ROUNDS):
        scanner = request_scanner()
        before = time.process_time()
        for chunk in chunks:
            scanner.feed(chunk)
        verdict = scanner.finish()
        best = min(best, time.process_time() - before)
        model = scanner.members[b"model"].value
        if (verdict, model) != ("done", b'"bench"'):
            raise AssertionError(f"{verdict}: the model is {model!r}")
    return len(body) / best / 1e6


def main() -> None:
    """Print the speeds."""
    print(f"streamproxy, {BUILD}; bodies of 10 MB in chunks of 64 KiB, `model` at the end")
    for name, body in bodies().items():
        print(f"{name:24} {speed(body):8,.0f} MB/s")


if __name__ == "__main__":
    main()
