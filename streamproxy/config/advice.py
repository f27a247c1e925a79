"""Advice about a valid configuration that may not do what the operator expects."""

from __future__ import annotations

from collections.abc import Iterator

from streamproxy.config.model import Config

_COUNTED = ("max_streams", "max_streams_per_client", "queue")


def advice(config: Config) -> Iterator[str]:
    """Yields one sentence for each remark."""
    workers = config.server.workers
    if workers == 1:
        return
    for route in config.routes:
        limits = [f"{name}: {value}" for name in _COUNTED if (value := getattr(route.limits, name))]
        if limits:
            yield (
                f"routes.{route.name}.limits: each of the {workers} workers counts its own {', '.join(limits)}, "
                f"so together they allow up to {workers} times as many"
            )
