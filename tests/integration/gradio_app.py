"""A Gradio app, and a client of it: ``serve PORT PREFIX`` or ``ask URL``. `make gradio` installs what it imports.

It runs with the interpreter of an environment of its own, whose packages are a third of a gigabyte.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "build" / "gradio" / "bin" / "python"
UPLOAD = 5 << 20  # bytes


def count(text: str) -> Iterator[str]:
    for number in range(3):
        time.sleep(0.05)
        yield f"{text} {number}"


def serve(port: int, prefix: str) -> None:
    """Serve until a signal."""
    import gradio

    with gradio.Blocks() as app:
        text, said, file, size = gradio.Textbox(), gradio.Textbox(), gradio.File(), gradio.Number()
        gradio.Button().click(count, text, said, api_name="count")
        gradio.Button().click(os.path.getsize, file, size, api_name="size")
    app.queue().launch(
        server_name="127.0.0.1", server_port=port, root_path=prefix, quiet=True, prevent_thread_lock=True
    )
    print("serving", flush=True)
    app.block_thread()


def ask(url: str) -> None:
    """Prints what a client found: the root that the page names, the results of a generator, and a file's size."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    job = client.submit("hello", api_name="/count")
    job.result(timeout=60)
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(UPLOAD))
        file.flush()
        size = client.predict(handle_file(file.name), api_name="/size")
    print(json.dumps([client.config["root"], job.outputs(), size]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        ask(sys.argv[2])
