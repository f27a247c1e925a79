"""The decorator of classes for the compiler, and its replacement in pure Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr  # only the compiler needs it; it recognises the name
else:
    T = TypeVar("T")

    def mypyc_attr(**_attributes: object) -> Callable[[T], T]:
        """With ``allow_interpreted_subclasses``, classes that are not compiled may inherit from a compiled one."""
        return lambda cls: cls


__all__ = ["mypyc_attr"]
