"""What a module that is compiled says of its classes, and what it means where nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr  # needed by the compiler only, which knows it by this name
else:
    T = TypeVar("T")

    def mypyc_attr(**_attributes: object) -> Callable[[T], T]:
        """``allow_interpreted_subclasses``: classes that are not compiled may inherit from a compiled one."""
        return lambda cls: cls


__all__ = ["mypyc_attr"]
