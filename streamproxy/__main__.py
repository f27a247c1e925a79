"""The command ``streamproxy``, and ``python -m streamproxy``.

Imports take a considerable part of a second. Until they are done, a signal would end the process with Python's default
handlers, by the signal or with a traceback. So commands that serve install a handler first. Nothing is open yet that
would have to be closed.

The garbage collector is off meanwhile. What imports make stays, and the collector would go through it again and again.
Afterwards it is frozen, so that no collection of a process that serves goes through it either.
"""

import gc
import os
import signal
import sys


def main() -> None:
    """The entry point of the command."""
    if sys.argv[1:2] in (["run"], ["demo"]):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os._exit(0))
    if sys.argv[1:2] == ["health"]:  # runs every few seconds, so without the imports of other commands
        from streamproxy.health import health

        health(sys.argv[2:], prog_name="streamproxy health")
    gc.disable()
    from streamproxy.cli import main as command

    gc.freeze()
    gc.enable()
    command()


if __name__ == "__main__":
    main()
