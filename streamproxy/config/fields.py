"""Finds the model and the field that a path of the file belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from streamproxy.config.redact import Path
from streamproxy.config.section import Section

_TAGS = frozenset({"text", "mapping"})  # of unions; pydantic puts them into its locations


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Returns the fields of a model by their keys in a file."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def models_in(annotation: Any) -> Iterator[type[Section]]:
    """Yields the models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def is_collection(annotation: Any) -> bool:
    """Whether an annotation is a list, or a mapping with user-defined keys."""
    return getattr(annotation, "__origin__", None) in (tuple, dict)


def model_at(root: type[Section], path: Path) -> type[Section] | None:
    """Returns the model of the mapping at a path, or None; ``*`` stands for any key or list index.

    The path may be a location of pydantic, with the tags of unions.
    """
    model: type[Section] | None = root
    parts = list(path)
    while parts and model is not None:
        key = str(parts.pop(0))
        info = keys_of(model).get(key)
        if info is None and key in _TAGS:
            continue
        if info is not None and is_collection(info.annotation):
            if not parts:
                return None
            parts.pop(0)
        model = _chosen(info, str(parts[0]) if parts else "") if info is not None else None
    return model


def _chosen(info: FieldInfo, key: str) -> type[Section] | None:
    """Returns the model of a field: of several, the one with this key, or the first."""
    models = list(models_in(info.annotation))
    return next((model for model in models if key in keys_of(model)), models[0] if models else None)


def field_at(root: type[Section], path: Path) -> FieldInfo:
    """Returns the field at the end of a path of keys. Raises KeyError if the model has no such path."""
    model = model_at(root, path[:-1])
    if model is None:
        raise KeyError(path)
    return keys_of(model)[str(path[-1])]


def is_default(info: FieldInfo, value: object) -> bool:
    """Whether a value in the file is equivalent to the field's default."""
    adapter: TypeAdapter[Any] = TypeAdapter(info.rebuild_annotation())
    try:
        return bool(adapter.validate_python(value) == default_of(info))
    except ValueError:
        return False


def default_of(info: FieldInfo) -> Any:
    """Returns a field's default as a Python value."""
    adapter: TypeAdapter[Any] = TypeAdapter(info.rebuild_annotation())
    return adapter.validate_python(info.get_default(call_default_factory=True, validated_data={}))
