"""The version, in a module that every other may import, and the kind of build."""

__version__ = "0.2.0"

# This module is compiled if the others are.
COMPILED = not __file__.endswith(".py")
BUILD = "compiled" if COMPILED else "pure"
