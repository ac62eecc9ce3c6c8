"""The look that all charts share: palettes, the Vega-Lite config, and the figure around a chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tvlens.viz.figure import Figure

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
    "background": None,
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
    """One colour per category; beyond the palette a sequence from blue to yellow, in which
    neighbours may look alike (curves by layer, say), so that order stays legible.
    """
    if count <= len(CATEGORIES):
        return list(CATEGORIES[:count])
    return [_MANY[i * len(_MANY) // count] for i in range(count)]


def quantity(field: str, title: str) -> dict[str, Any]:
    """Encoding of a number on an axis."""
    return {"field": field, "type": "quantitative", "title": title or None}


def hovered(field: str, title: str) -> dict[str, Any]:
    """Entry of a tooltip: a number with four digits."""
    return {**quantity(field, title), "format": ".4~g"}


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
