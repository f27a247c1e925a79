"""``python -m streamproxy`` is the command ``streamproxy``."""

from streamproxy.cli import main

if __name__ == "__main__":
    main()
