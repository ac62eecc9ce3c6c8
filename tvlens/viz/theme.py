"""The theme of all charts: palettes, Vega-Lite config, scales and labels."""

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
"""Color of the text around the chart, on light and dark pages."""

# From blue to yellow, all legible on white and on black, for more categories than the palette has.
_SEQUENCE = ("#6a5acd", "#4b74c9", "#2f8fbf", "#1fa3a3", "#2fb380", "#6cbf4f", "#a8b820", "#d9a514")

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


def make_chart(
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
    """Make a figure of the available width from the data and layers of a Vega-Lite chart.

    Args:
        body: everything but sizes and config.
        title, caption, alt: as in `Figure`.
        height: pixels: with `fit="fit"` of all, with `fit="fit-x"` of the plot without its axes.
        reserve: pixels of axes and legends in addition to `height`, so that the layout is stable.
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


def choose_colors(count: int) -> list[str]:
    """Return one color per category: the palette, or for more a sequence from blue to yellow.

    Many categories, such as layers, are usually ordered, which a sequence shows.
    """
    if count <= len(CATEGORIES):
        return list(CATEGORIES[:count])
    steps = [i * (len(_SEQUENCE) - 1) / (count - 1) for i in range(count)]
    return [
        _mix_colors(_SEQUENCE[int(s)], _SEQUENCE[min(int(s) + 1, len(_SEQUENCE) - 1)], s % 1)
        for s in steps
    ]


def _mix_colors(first: str, second: str, share: float) -> str:
    """Interpolate between two colors `#rrggbb`."""
    pairs = [(int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


def quantitative_axis(field: str, title: str) -> dict[str, Any]:
    """Return the encoding of a number on an axis."""
    return {"field": field, "type": "quantitative", "title": wrap_title(title)}


def wrap_title(title: str) -> str | list[str] | None:
    """Split an axis title into lines that fit on a narrow screen; None for no title."""
    lines = textwrap.wrap(title, 36)
    return lines if len(lines) > 1 else title or None


def title_height(title: str) -> int:
    """Return the height of an axis title in pixels."""
    lines = len(textwrap.wrap(title, 36))
    return 9 + 15 * lines if lines else 0


def nonzero_scale(values: Iterable[float | None]) -> dict[str, Any]:
    """Return scale properties for an axis that need not contain zero.

    Where all values are equal, Vega would label the only tick with a wrong number (0.5 as "1"), so
    the axis gets some room around it.
    """
    present = [value for value in values if value is not None]
    if len(set(present)) != 1:
        return {"zero": False}
    margin = abs(present[0]) / 2 or 1.0
    return {"domain": [present[0] - margin, present[0] + margin], "zero": False}


def tooltip_number(field: str, title: str) -> dict[str, Any]:
    """Return the tooltip entry of a number, with four digits."""
    return {"field": field, "type": "quantitative", "title": title or field, "format": ".4~g"}


def legend_columns(labels: Sequence[str], *, width: int = 250) -> int:
    """Return the number of legend columns that fit on a narrow screen."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels), width // (int(6.6 * longest) + 40)))


def lookup_expression(labels: Sequence[str], index: str) -> str:
    """Return the Vega expression for `labels[index]`.

    Axes use positions as their values and labels for display, because labels may repeat.
    """
    return f"{json.dumps(list(labels))}[{index}]"


def escape_whitespace(label: object) -> str:
    """Replace line breaks and tabs in a label, which may be tokens, by visible symbols."""
    return str(label).replace("\n", "⏎").replace("\r", "⏎").replace("\t", "⇥")
