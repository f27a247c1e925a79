"""Builds the updates of the live view: one overview for all viewers, and the streams of each view."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from streamproxy.admin.sample import Sample, Sampler
from streamproxy.admin.update import (
    Overview,
    RouteRow,
    Update,
    View,
    endpoint_rows,
    first_routes,
    first_streams,
    matching,
    route_row,
    sums,
    upstream_rows,
)
from streamproxy.control import Control
from streamproxy.version import __version__

MOST_ROUTES = 100
MOST_ENDPOINTS = 200
_BATCH = 10  # routes between two iterations of the event loop


class Shown(NamedTuple):
    """One sample, and the overview that is the same for every viewer."""

    sample: Sample
    overview: Overview


class Overviews:
    """Builds the overviews of one proxy."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._sampler = Sampler(control.ledger, control.metrics, lambda: control.drained)

    async def look(self) -> Shown:
        """Takes a sample for all viewers. One caller at a time."""
        await self._control.refresh(streams=True)
        sample = await self._sampler.take()
        names = first_routes(sample)
        routes: list[RouteRow] = []
        for start in range(0, min(len(names), MOST_ROUTES), _BATCH):
            routes += [route_row(sample, name) for name in names[start : start + _BATCH]]
            await asyncio.sleep(0)
        endpoints, reasons = endpoint_rows(sample), self._control.ready()
        overview: Overview = {
            "time": round(time.time(), 3),
            "version": __version__,
            "ready": not reasons,
            "reasons": reasons,
            "reload": list(self._control.reload_problems),
            "window": round(sample.window, 1),
            "totals": sums(sample),
            "routes": routes,
            "hidden_routes": len(names) - len(routes),
            "endpoints": endpoints[:MOST_ENDPOINTS],
            "hidden_endpoints": max(0, len(endpoints) - MOST_ENDPOINTS),
            "upstreams": upstream_rows(sample),
            "ended": self._control.ended.newest(sample.now.at),
            "ends": dict(self._control.ended.counts),
        }
        return Shown(sample, overview)

    def update(self, shown: Shown, view: View) -> Update:
        """Returns the update of a sample for the viewers of one view."""
        sample = shown.sample
        return {**shown.overview, "matching": matching(sample, view), "streams": first_streams(sample, view)}
