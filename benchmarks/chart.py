"""The chart for the README: bars drawn by hand as SVG, readable on light and dark pages.

Bars share one linear scale a panel, which the proxies set and the usual recipe may overrun: its bar is then cut, with a
gap near its end, and its number says how long it would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from benchmarks.report_tables import figure
from benchmarks.sitting import Sitting
from benchmarks.summary import US, quote

PANELS = (
    ("CPU µs a request", "tiny", "cpu_us"),
    ("CPU µs an event", "events", "cpu_us"),
    ("KiB an idle stream", "idle", "kib_a_stream"),
)
SHOWN = ("nginx", "haproxy", "envoy", US, "caddy", "recipe")
_SCALE_WITHOUT = "recipe"

_LABEL, _BAR, _NUMBER, _GAP = 262, 130, 62, 16  # widths, px
_ROW, _TOP = 26, 40

_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.head{font-weight:600}.bar{fill:#8c959f}.ours{fill:#0969da}"
    ".cut{stroke:#fff;stroke-width:3}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6e7681}.ours{fill:#2f81f7}.cut{stroke:#0d1117}}"
)


class Bar(NamedTuple):
    """A bar's share of its panel's width, and whether it is cut there."""

    share: float
    cut: bool


def bar(value: float, scale: float) -> Bar:
    """The bar of a value where ``scale`` fills the panel."""
    return Bar(min(value / scale, 1.0), value > scale) if scale > 0 else Bar(0.0, False)


def _panel(values: Sequence[float | None], scale: float, names: Sequence[str], left: int) -> list[str]:
    out = []
    for row, (value, name) in enumerate(zip(values, names, strict=True)):
        if value is None:
            continue
        top = _TOP + row * _ROW
        share, cut = bar(value, scale)
        width = max(share * _BAR, 1.0)
        kind = "ours" if name == US else "bar"
        out.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{width:.1f}" height="16" rx="2"/>')
        if cut:
            at = left + width - 14
            out.append(f'<line class="cut" x1="{at - 3:.1f}" y1="{top + 18}" x2="{at + 3:.1f}" y2="{top - 2}"/>')
        out.append(f'<text x="{left + width + 5:.1f}" y="{top + 13}">{figure(value)}</text>')
    return out


def svg(sitting: Sitting) -> str:
    """The chart of a sitting: its bests."""
    labels: dict[str, str] = sitting.facts["labels"]
    names = [name for name in SHOWN if name in labels]
    width = _LABEL + len(PANELS) * (_BAR + _NUMBER + _GAP)
    height = _TOP + len(names) * _ROW + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="CPU and memory of streamproxy beside other proxies">',
        f"<style>{_STYLE}</style>",
    ]
    for row, name in enumerate(names):
        weight = ' class="head"' if name == US else ""
        parts.append(f'<text{weight} x="0" y="{_TOP + row * _ROW + 13}">{escape(labels[name])}</text>')
    for column, (title, load, number) in enumerate(PANELS):
        left = _LABEL + column * (_BAR + _NUMBER + _GAP)
        found = [quote(sitting.samples, load, name, number) for name in names]
        values = [None if one is None else one.best for one in found]
        known = [value for value, name in zip(values, names, strict=True) if value is not None]
        scaled = [
            value for value, name in zip(values, names, strict=True) if value is not None and name != _SCALE_WITHOUT
        ]
        parts.append(f'<text class="head" x="{left}" y="22">{escape(title)}</text>')
        parts += _panel(values, max(scaled or known or [0.0]), names, left)
    return "\n".join([*parts, "</svg>"]) + "\n"
