"""The ``tracing`` section: where spans are exported to."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from streamproxy.config import types as t
from streamproxy.config import values
from streamproxy.config.section import Section, setting


def collector(value: object) -> str:
    """Returns the http or https URL of a collector without its final slash. Raises ValueError."""
    raw = values.text(value)
    parts = urlsplit(raw) if raw.isascii() and raw.isprintable() and " " not in raw else None
    if parts is None or "?" in raw or "#" in raw or "@" in parts.netloc:
        raise ValueError("is not the URL of a collector: write http://host:4318, without a user, query or fragment")
    return values.origin(f"{parts.scheme}://{parts.netloc}") + parts.path.rstrip("/")


def ratio(value: object) -> float:
    """A number from 0 to 1. Raises ValueError."""
    problem = "is not a ratio: write a number from 0 to 1, such as 0.1"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(problem)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(problem) from None
    if not 0.0 <= number <= 1.0:
        raise ValueError(problem)
    return number


Ratio = Annotated[
    float,
    BeforeValidator(ratio),
    t.WithJsonSchema(
        {"type": ["string", "number"], "pattern": r"^[0-9]+$|^[0-9]*\.[0-9]+$|\$\{", "minimum": 0, "maximum": 1}
    ),
]


class Tracing(Section):
    """OpenTelemetry spans for each exchange; needs the extra ``otel``. ``OTEL_*`` variables are not read."""

    endpoint: Annotated[str, BeforeValidator(collector)] = setting(
        "http://127.0.0.1:4318", "a collector for OTLP over HTTP; /v1/traces is appended"
    )
    service_name: t.Label = setting("streamproxy", "the service.name of the spans")
    sample_ratio: Ratio = setting(1, "the share of new traces that is sampled; a caller's decision is kept")
    headers: t.HeaderValues = Field(
        default={}, description="header fields of each export, such as an API key", repr=False
    )
