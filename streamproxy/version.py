"""The version, by itself so that everything may import it; and which build of it this is."""

__version__ = "0.2.0"

# This module is compiled where the others are.
COMPILED = not __file__.endswith(".py")
BUILD = "compiled" if COMPILED else "pure"
