"""The base class of all sections of the configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from streamproxy.config import types as t
from streamproxy.config import units


def setting(default: object, description: str, *, alias: str | None = None) -> Any:
    """Returns a field with its default as written in a file."""
    return Field(default=default, description=description, alias=alias, validate_default=True)


def _none_if_off(value: object) -> object:
    return None if units.is_off(value) else value


OrOff = BeforeValidator(_none_if_off)


class Section(BaseModel):
    """A mapping in the file: frozen, without unknown keys; null means an empty mapping."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, value: object) -> object:
        return t.none_is_empty(value)
