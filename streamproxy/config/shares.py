"""The ``upstream`` of a route: one upstream, or several that share its requests."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from streamproxy.config import types as t
from streamproxy.config.section import Section, setting


class UpstreamShare(Section):
    """One of several upstreams that share a route's requests."""

    name: t.UpstreamName = Field(description="a name of upstreams, or a URL")
    weight: t.Number = setting(1, "its relative share of the requests; 0: none")


class Shares(Section):
    """Upstreams that share a route's requests; a list alone is the short form."""

    shares: Annotated[tuple[UpstreamShare, ...], BeforeValidator(t.some)] = Field(
        description="the upstreams with their weights"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Shares:
        if not any(share.weight for share in self.shares):
            raise ValueError("has no upstream with a weight")
        names = [share.name for share in self.shares]
        if len(set(names)) < len(names):
            raise ValueError("names an upstream twice")
        return self


def short_shares(value: object) -> object:
    """Expands a list of shares to a mapping. Raises ValueError for a list of names."""
    if isinstance(value, list) and any(isinstance(share, str) for share in value):
        raise ValueError(
            "must be one upstream, with all its endpoints, or shares by weight: [{name: NAME, weight: 95}, …]"
        )
    return {"shares": value} if isinstance(value, list | tuple) else value


# The tag selects the model, so that only that model reports errors.
UpstreamChoice = Annotated[
    Annotated[t.UpstreamName, Tag("text")] | Annotated[Shares, Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict | Shares) else "text"),
]
