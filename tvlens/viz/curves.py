"""Curves over a common axis, with bands, reference levels and marked points. Vega-Lite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from .arrays import Numbers
from .curve_data import band_rows, curve_rows, mark_rows, rule_rows
from .figure import Figure
from .theme import (
    CATEGORIES,
    INK,
    chart,
    colors,
    extent,
    hovered,
    legend_columns,
    quantity,
)

Layer = dict[str, Any]
Rows = list[dict[str, Any]]
_HEIGHTS = ("y", "low", "high")


def lines(
    series: Mapping[str, Numbers],
    *,
    x: Numbers | None = None,
    x_title: str = "",
    y_title: str = "",
    bands: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    rules: Mapping[str, Numbers] | None = None,
    marks: Mapping[str, Sequence[Numbers]] | None = None,
    y_domain: tuple[float, float] | None = None,
    doublings: bool = False,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Curves over a common axis, with intervals around them and reference levels.

    Args:
        series: name -> values [x]; NaN leaves a gap.
        x: positions [x]; by default 0, 1, ...
        x_title, y_title: axis titles.
        bands: name of a series -> (low [x], high [x]), a shaded interval around it.
        rules: name -> level, a dashed horizontal line; the legend gives name and level.
        marks: name -> (x, y, low, high), a labelled point with an interval.
        y_domain: fixed limits of the y axis.
        doublings: a logarithmic x axis, on which 1, 2, 4 are equally far apart.

    Raises:
        ValueError: no series, different lengths, a band without its series, or no logarithm of x.
    """
    if not series:
        raise ValueError("lines needs at least one series")
    values, positions = curve_rows(series, x)
    limits = band_rows(bands or {}, series, positions)
    levels = rule_rows(rules or {})
    marked = mark_rows(marks or {}, positions)
    names = [*series, *(row["series"] for row in levels)]
    above = 16 * len(marked)  # pixels that the labels of marks take, below the legend
    strokes = _strokes(len(series), names, offset=10 + above)
    across = quantity("x", x_title)
    across |= {
        "axis": _ticks(positions),
        "scale": {**_spread(positions, doublings), "nice": False, "padding": 8},
    }
    up = quantity("y", y_title)
    heights = [row.get(key) for row in (*values, *limits, *levels, *marked) for key in _HEIGHTS]
    up["scale"] = {"domain": list(y_domain)} if y_domain else extent(heights)
    axes = {"x": across, "y": up}
    name = {"field": "series", "type": "nominal", "title": "series"}
    hover = [name, hovered("x", x_title or "x"), hovered("y", y_title or "y")]
    layers = [
        *_reference_layers(levels, limits, axes, strokes, hover),
        _layer(None, {"type": "line", "strokeWidth": 2.2}, [], **axes, **strokes),
        _layer(None, _dots(len(positions)), hover, **axes, color=strokes["color"]),
        *_mark_layers(marked, axes, hover),
    ]
    body = {"data": {"values": values}, "layer": layers}
    above += 21 * -(-len(names) // legend_columns(names)) if len(names) > 1 else 0
    alt = title or f"{y_title or 'values'} by {x_title or 'position'}"
    alt += f": {len(series)} curves ({', '.join(series)}) over {len(positions)} points"
    return chart(body, title=title, caption=caption, alt=alt, height=310 + above)


def _spread(positions: Sequence[float], doublings: bool) -> Layer:
    """How positions lie on their axis."""
    if not doublings:
        return extent(positions)
    least, most = min(positions), max(positions)
    if least <= 0:
        raise ValueError(f"x holds {least}, which has no logarithm")
    ends = [least / 2, 2 * most] if least == most else [least, most]
    return {"type": "log", "base": 2, "domain": ends}


def _ticks(positions: Sequence[float]) -> Layer:
    """Axis whose ticks are whole numbers where the positions are, as there is no layer 0.5."""
    if not all(isinstance(position, Integral) for position in positions):
        return {"grid": False}
    if len(positions) <= 13:
        return {"grid": False, "values": list(positions), "format": ",d"}
    return {"grid": False, "tickMinStep": 1}


def _layer(rows: Rows | None, mark: Layer, tooltip: list[Layer], **encoding: Any) -> Layer:
    """A layer with its own rows, or with those of the chart."""
    if tooltip:
        encoding["tooltip"] = tooltip
    own = {} if rows is None else {"data": {"values": rows}}
    return {**own, "mark": mark, "encoding": encoding}


def _reference_layers(
    levels: Rows, limits: Rows, axes: Layer, strokes: Layer, hover: list[Layer]
) -> list[Layer]:
    """What lies behind the curves: dashed levels and shaded bands."""
    layers = []
    if levels:
        line = {"type": "rule", "strokeWidth": 1.6}
        layers.append(_layer(levels, line, [hover[0], hover[2]], y=axes["y"], **strokes))
    if limits:
        shade = {"type": "area", "opacity": 0.18, "clip": True}
        ends = {"x": axes["x"], "y": {**axes["y"], "field": "low"}, "y2": {"field": "high"}}
        words = [*hover[:2], hovered("low", "low"), hovered("high", "high")]
        layers.append(_layer(limits, shade, words, **ends, color=strokes["color"]))
    return layers


def _strokes(curves: int, names: Sequence[str], *, offset: int) -> Layer:
    """Encodings of colour and dashes, which share one legend.

    Curves, which come first, have colours and solid lines; levels are neutral and differ in dashes.
    """
    legend = {
        "title": None,
        "offset": offset,
        "symbolType": "stroke",
        "symbolSize": 300,
        "symbolStrokeWidth": 2.2,
        "columns": legend_columns(names),
    }
    patterns = ([6, 4], [2, 3], [10, 4], [10, 3, 2, 3])
    dashes = [patterns[(i - curves) % 4] if i >= curves else [1, 0] for i in range(len(names))]
    shades = [*colors(curves), *[INK] * (len(names) - curves)]
    field = {"field": "series", "type": "nominal", "sort": None}
    field["legend"] = legend if len(names) > 1 else None
    return {
        "color": {**field, "scale": {"domain": list(names), "range": shades}},
        "strokeDash": {**field, "scale": {"domain": list(names), "range": dashes}},
    }


def _dots(count: int) -> Layer:
    """Visible dots where there is room; otherwise invisible ones that still answer to hovering."""
    size = {"size": 34, "opacity": 1} if count <= 40 else {"size": 90, "opacity": 0}
    return {"type": "point", "filled": True, **size}


def _mark_layers(rows: Rows, axes: Layer, hover: list[Layer]) -> list[Layer]:
    """A whisker, a diamond and a label per mark, and a thin line from one to the other."""
    if not rows:
        return []
    hover = [*hover, hovered("low", "low"), hovered("high", "high")]
    across, up = {"x": axes["x"]}, axes["y"]
    diamond = {"type": "point", "shape": "diamond", "filled": True, "size": 150, "opacity": 1}
    diamond |= {"color": CATEGORIES[5], "stroke": INK, "strokeWidth": 1}
    leader = {"type": "rule", "strokeDash": [1, 3], "opacity": 0.7}
    ends = {"y": {**up, "field": "low"}, "y2": {"field": "high"}}
    top = {"y": {**up, "field": "high"}, "y2": {"value": 0}}
    layers = [
        _layer(rows, leader, [], **across, **top),
        _layer(rows, {"type": "rule", "strokeWidth": 2}, hover, **across, **ends),
        _layer(rows, diamond, hover, **axes),
    ]
    for place, row in enumerate(rows):
        # Labels stand above the plot, one line each, where no curve can run through them.
        text = {"type": "text", "align": row["align"], "baseline": "bottom", "fontWeight": 600}
        label = {"text": {"field": "series", "type": "nominal"}, "y": {"value": -4 - 16 * place}}
        layers.append(_layer([row], text, hover, **across, **label))
    return layers
