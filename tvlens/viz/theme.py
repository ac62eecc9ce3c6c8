"""The look that all charts share: palettes, the Vega-Lite config, and the figure around a chart."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from .figure import Figure

# Okabe and Ito, Color Universal Design (2008), without black, which would vanish on a dark page;
# ordered so that the first few differ most and are legible on white.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
NEUTRAL = "#8a8f98"
INK = "currentColor"
"""The colour of the text around the chart, in light and in dark pages."""

# From blue to yellow, all legible on white and on black, for more categories than the palette has.
_MANY = ("#6a5acd", "#4b74c9", "#2f8fbf", "#1fa3a3", "#2fb380", "#6cbf4f", "#a8b820", "#d9a514")

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_CONFIG = {
    "background": "transparent",
    "padding": {"left": 2, "top": 5, "right": 14, "bottom": 2},
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "domainOpacity": 0.4,
        "tickOpacity": 0.4,
        "gridOpacity": 0.1,
        "labelFontSize": 12,
        "titleFontSize": 12.5,
        "titleFontWeight": 500,
        "titlePadding": 8,
    },
    "axisQuantitative": {"tickCount": 6, "labelOverlap": True, "labelSeparation": 6},
    "legend": {
        "symbolOpacity": 1,
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "titleLimit": 300,
        "labelLimit": 260,
        "orient": "top",
        "offset": 10,
    },
    "title": {"color": INK, "fontSize": 14, "anchor": "start"},
    "text": {"color": INK, "fontSize": 12},
    "rule": {"color": INK},
}


def chart(
    body: dict[str, Any],
    *,
    title: str,
    caption: str,
    alt: str,
    height: int,
    reserve: int = 0,
    minimum_width: int = 0,
    fit: str = "fit",
) -> Figure:
    """Complete a Vega-Lite body (data, layers) into a figure of the width that it is given.

    Args:
        body: everything but sizes and config.
        title, caption, alt: as in `Figure`.
        height: pixels: with `fit="fit"` of all, with `fit="fit-x"` of the plot without its axes.
        reserve: pixels that axes and legends need beside `height`, so that drawing moves nothing.
        minimum_width: pixels below which the chart scrolls inside its own box.
        fit: Vega-Lite's autosize type.
    """
    sizes = {"min-height": f"{height + reserve}px"}
    if minimum_width:
        sizes["min-width"] = f"{minimum_width}px"
    spec = {
        "description": alt,
        "width": "container",
        "height": height,
        "autosize": {"type": fit, "contains": "padding"},
        **body,
        "config": _CONFIG,
        "usermeta": {"tvlens": sizes},
    }
    return Figure("vega", spec, title=title, caption=caption, alt=alt)


def colors(count: int) -> list[str]:
    """One colour per category: the palette, or beyond it a sequence from blue to yellow.

    A sequence suits what comes in so many kinds, such as curves by layer, since these are ordered.
    """
    if count <= len(CATEGORIES):
        return list(CATEGORIES[:count])
    steps = [i * (len(_MANY) - 1) / (count - 1) for i in range(count)]
    return [_between(_MANY[int(s)], _MANY[min(int(s) + 1, len(_MANY) - 1)], s % 1) for s in steps]


def _between(first: str, second: str, share: float) -> str:
    """Colour between two colours `#rrggbb`."""
    pairs = [(int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


def quantity(field: str, title: str) -> dict[str, Any]:
    """Encoding of a number on an axis."""
    return {"field": field, "type": "quantitative", "title": wrapped(title)}


def wrapped(title: str) -> str | list[str] | None:
    """An axis title on as many lines as a narrow screen needs; None for no title."""
    lines = textwrap.wrap(title, 36)
    return lines if len(lines) > 1 else title or None


def title_height(title: str) -> int:
    """Pixels that an axis title takes."""
    lines = len(textwrap.wrap(title, 36))
    return 9 + 15 * lines if lines else 0


def extent(values: Iterable[float | None]) -> dict[str, Any]:
    """Scale properties for an axis that need not contain zero.

    Where all values are equal, Vega would label the only tick with a wrong number (0.5 as "1"), so
    the axis gets some room around it.
    """
    known = [value for value in values if value is not None]
    if len(set(known)) != 1:
        return {"zero": False}
    room = abs(known[0]) / 2 or 1.0
    return {"domain": [known[0] - room, known[0] + room], "zero": False}


def hovered(field: str, title: str) -> dict[str, Any]:
    """Entry of a tooltip: a number with four digits."""
    return {"field": field, "type": "quantitative", "title": title or field, "format": ".4~g"}


def legend_columns(labels: Sequence[str], *, width: int = 250) -> int:
    """Number of legend columns with which the labels fit on a narrow screen."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels), width // (int(6.6 * longest) + 40)))


def lookup(labels: Sequence[str], index: str) -> str:
    """Vega expression for `labels[index]`.

    Axes use positions as their values and labels for display, because labels may repeat.
    """
    return f"{json.dumps(list(labels))}[{index}]"


def visible(label: object) -> str:
    """A label on one line: line breaks and tabs become signs, as they may be tokens."""
    return str(label).replace("\n", "⏎").replace("\r", "⏎").replace("\t", "⇥")
