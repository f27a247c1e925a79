"""The state of `streamproxy top` and the effects of its keys, without terminal, network or clock.

Theory of operation. Updates and keys come in, and the state can be read at any time. A key may return a `Command` for
the caller to perform. One question may be open, and any key but Ctrl-C then answers it::

    browsing ──x on a stream──▶ asking ──y──▶ browsing, and the stream is stopped
        ▲                          └──any other key──▶ browsing
        └── all other keys change the view

A stream stays selected by its id wherever it moves. When it ends, the stream that took its place becomes selected.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from streamproxy.admin.update import Sort, Update

HISTORY = 60  # points of a sparkline

SORT_KEYS: dict[str, Sort] = {"a": "age", "b": "bytes", "e": "events", "r": "rate"}
_STEPS = {"j": 1, "down": 1, "k": -1, "up": -1, "pagedown": 10, "pageup": -10}


class Command(NamedTuple):
    """An action for the caller: ``quit``, ``look`` at another view, or ``stop`` a stream."""

    what: Literal["quit", "look", "stop"]
    stream: str = ""


class Top:
    """The state of the terminal table."""

    def __init__(self) -> None:
        self.update: Update | None = None
        self.sort: Sort = "age"
        self.ascending = False
        self.route = ""
        self.asking: str | None = None  # the stream to stop if the user confirms
        self.message = ""
        self.lost = False  # the connection is lost
        self.histories: dict[str, list[float]] = {}  # the event rates of each displayed stream
        self._selected: str | None = None
        self._place = 0

    @property
    def streams(self) -> list[dict[str, Any]]:
        """The displayed streams, in order."""
        return self.update["streams"] if self.update is not None else []

    @property
    def place(self) -> int:
        """The index of the selected stream; 0 if there is none."""
        return self._place

    @property
    def selected(self) -> dict[str, Any] | None:
        """The selected stream, or None."""
        return self.streams[self._place] if self.streams else None

    def view(self) -> dict[str, str]:
        """Returns the query for the updates."""
        view = {"sort": self.sort, "order": "asc" if self.ascending else "desc", "limit": "200"}
        return view | {"route": self.route} if self.route else view

    def on_update(self, update: Update) -> None:
        """Takes an update."""
        self.update = update
        self.lost = False
        ids = [stream["id"] for stream in update["streams"]]
        self.histories = {
            stream["id"]: [*self.histories.get(stream["id"], ()), stream["rate"]][-HISTORY:]
            for stream in update["streams"]
        }
        if self._selected in ids:
            self._place = ids.index(self._selected)
        self._select(self._place)

    def on_key(self, key: str) -> Command | None:
        """Handles a key, given as a character or a name."""
        self.message = ""
        if key == "ctrl-c":
            return Command("quit")
        if self.asking is not None:
            stream, self.asking = self.asking, None
            return Command("stop", stream) if key == "y" else None
        if key == "q":
            return Command("quit")
        if key in SORT_KEYS:
            return self._sort(SORT_KEYS[key])
        if key == "f":
            return self._next_route()
        if key == "x" and self.selected is not None:
            self.asking = self.selected["id"]
        elif key in ("g", "home"):
            self._select(0)
        elif key in ("G", "end"):
            self._select(len(self.streams))
        elif key in _STEPS:
            self._select(self._place + _STEPS[key])
        return None

    def _select(self, place: int) -> None:
        streams = self.streams
        self._place = max(0, min(place, len(streams) - 1))
        self._selected = streams[self._place]["id"] if streams else None

    def _sort(self, sort: Sort) -> Command:
        self.ascending = not self.ascending if sort == self.sort else False
        self.sort = sort
        return Command("look")

    def _next_route(self) -> Command | None:
        if self.update is None:
            return None
        names = ["", *sorted(row["route"] for row in self.update["routes"] if row["route"] != "-")]
        at = names.index(self.route) if self.route in names else 0
        self.route = names[(at + 1) % len(names)]
        return Command("look")
