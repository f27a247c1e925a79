"""The command ``streamproxy``, and ``python -m streamproxy``.

Imports take a good part of a second, and until they are over Python's own handlers would make of a stop an exit by a
signal, or a traceback. So the first thing is a handler for those commands that serve; nothing is open yet that would
have to be closed.
"""

import os
import signal
import sys


def main() -> None:
    """The entry point of the command."""
    if sys.argv[1:2] in (["run"], ["demo"]):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os._exit(0))
    if sys.argv[1:2] == ["health"]:  # runs every few seconds: without the imports of the other commands
        from streamproxy.health import health

        health(sys.argv[2:], prog_name="streamproxy health")
    from streamproxy.cli import main as command

    command()


if __name__ == "__main__":
    main()
