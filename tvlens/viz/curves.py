"""Line charts with intervals, reference levels and marked points, as Vega-Lite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from .arrays import Numbers, as_array, check_same_length, round_floats
from .figure import Figure
from .theme import (
    CATEGORIES,
    INK,
    choose_colors,
    legend_columns,
    make_chart,
    nonzero_scale,
    quantitative_axis,
    tooltip_number,
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
    across = quantitative_axis("x", x_title)
    across |= {
        "axis": _ticks(positions),
        "scale": {**_x_scale(positions, doublings), "nice": False, "padding": 8},
    }
    up = quantitative_axis("y", y_title)
    heights = [row.get(key) for row in (*values, *limits, *levels, *marked) for key in _HEIGHTS]
    up["scale"] = {"domain": list(y_domain)} if y_domain else nonzero_scale(heights)
    axes = {"x": across, "y": up}
    name = {"field": "series", "type": "nominal", "title": "series"}
    hover = [name, tooltip_number("x", x_title or "x"), tooltip_number("y", y_title or "y")]
    layers = [
        *_reference_layers(levels, limits, axes, strokes, hover),
        _layer(None, {"type": "line", "strokeWidth": 2.2}, [], **axes, **strokes),
        _layer(None, _dot_mark(len(positions)), hover, **axes, color=strokes["color"]),
        *_mark_layers(marked, axes, hover),
    ]
    body = {"data": {"values": values}, "layer": layers}
    above += 21 * -(-len(names) // legend_columns(names)) if len(names) > 1 else 0
    alt = title or f"{y_title or 'values'} by {x_title or 'position'}"
    alt += f": {len(series)} curves ({', '.join(series)}) over {len(positions)} points"
    return make_chart(body, title=title, caption=caption, alt=alt, height=310 + above)


def _x_scale(positions: Sequence[float], doublings: bool) -> Layer:
    """Scale of the axis of positions."""
    if not doublings:
        return nonzero_scale(positions)
    least, most = min(positions), max(positions)
    if least <= 0:
        raise ValueError(f"x holds {least}, which has no logarithm")
    ends = [least / 2, 2 * most] if least == most else [least, most]
    return {"type": "log", "base": 2, "domain": ends}


def _ticks(positions: Sequence[float]) -> Layer:
    """Axis with integer ticks for integer positions."""
    if not all(isinstance(position, Integral) for position in positions):
        return {"grid": False}
    if len(positions) <= 13:
        return {"grid": False, "values": list(positions), "format": ",d"}
    return {"grid": False, "tickMinStep": 1}


def _layer(rows: Rows | None, mark: Layer, tooltip: list[Layer], **encoding: Any) -> Layer:
    """A layer with its own rows, or with those of the chart."""
    if tooltip:
        encoding["tooltip"] = tooltip
    data = {} if rows is None else {"data": {"values": rows}}
    return {**data, "mark": mark, "encoding": encoding}


def _reference_layers(
    levels: Rows, limits: Rows, axes: Layer, strokes: Layer, hover: list[Layer]
) -> list[Layer]:
    """Layers behind the curves: dashed levels and shaded bands."""
    layers = []
    if levels:
        line = {"type": "rule", "strokeWidth": 1.6}
        layers.append(_layer(levels, line, [hover[0], hover[2]], y=axes["y"], **strokes))
    if limits:
        shade = {"type": "area", "opacity": 0.18, "clip": True}
        ends = {"x": axes["x"], "y": {**axes["y"], "field": "low"}, "y2": {"field": "high"}}
        words = [*hover[:2], tooltip_number("low", "low"), tooltip_number("high", "high")]
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
    shades = [*choose_colors(curves), *[INK] * (len(names) - curves)]
    field = {"field": "series", "type": "nominal", "sort": None}
    field["legend"] = legend if len(names) > 1 else None
    return {
        "color": {**field, "scale": {"domain": list(names), "range": shades}},
        "strokeDash": {**field, "scale": {"domain": list(names), "range": dashes}},
    }


def _dot_mark(count: int) -> Layer:
    """Visible dots where there is room; otherwise invisible ones that still answer to hovering."""
    size = {"size": 34, "opacity": 1} if count <= 40 else {"size": 90, "opacity": 0}
    return {"type": "point", "filled": True, **size}


def _mark_layers(rows: Rows, axes: Layer, hover: list[Layer]) -> list[Layer]:
    """A whisker, a diamond and a label per mark, and a thin line from one to the other."""
    if not rows:
        return []
    hover = [*hover, tooltip_number("low", "low"), tooltip_number("high", "high")]
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


def curve_rows(
    series: Mapping[str, Numbers], x: Numbers | None
) -> tuple[list[dict[str, Any]], list[float]]:
    """One row per point, and the common positions [x].

    Raises:
        ValueError: series of different lengths, or another number of positions.
    """
    curves = {
        name: as_array(values, name=f"series {name!r}", axes=["x"], allow_nan=True)
        for name, values in series.items()
    }
    length = len(next(iter(curves.values())))
    points = range(length) if x is None else as_array(x, name="x", axes=["x"]).tolist()
    positions = round_floats([float(point) for point in points], digits=6)
    for name, values in curves.items():
        check_same_length("x positions", len(positions), f"values of {name!r}", len(values))
    rows = [
        {"series": name, "x": position, "y": value}
        for name, values in curves.items()
        for position, value in zip(positions, round_floats(values.tolist()), strict=True)
    ]
    return rows, positions


def band_rows(
    bands: Mapping[str, tuple[Numbers, Numbers]],
    series: Mapping[str, Numbers],
    positions: list[float],
) -> list[dict[str, Any]]:
    """One row per point of a band.

    Raises:
        ValueError: a band whose series does not exist, or of another length.
    """
    rows = []
    for name, limits in bands.items():
        if name not in series:
            raise ValueError(f"band {name!r} has no series; there are {', '.join(series)}")
        low, high = (
            as_array(limit, name=f"{side} of band {name!r}", axes=["x"], allow_nan=True)
            for side, limit in zip(("low", "high"), limits, strict=True)
        )
        for side in (low, high):
            check_same_length("x positions", len(positions), f"limits of {name!r}", len(side))
        pairs = zip(round_floats(low.tolist()), round_floats(high.tolist()), strict=True)
        rows += [
            {"series": name, "x": position, "low": bottom, "high": top}
            for position, (bottom, top) in zip(positions, pairs, strict=True)
        ]
    return rows


def rule_rows(rules: Mapping[str, Numbers]) -> list[dict[str, Any]]:
    """One row per level; its name, which the legend shows, says the number."""
    if not rules:
        return []
    levels = as_array(list(rules.values()), name="rules", axes=["rule"]).tolist()
    return [
        {"series": f"{name} ({level:.3g})", "y": round_floats(level)}
        for name, level in zip(rules, levels, strict=True)
    ]


def mark_rows(
    marks: Mapping[str, Sequence[Numbers]], positions: list[float]
) -> list[dict[str, Any]]:
    """One row per mark; `align` says to which side its label, above the plot, extends."""
    if not marks:
        return []
    points = as_array(list(marks.values()), name="marks", axes=["mark", "x/y/low/high"])
    across = [*positions, *points[:, 0].tolist()]
    middle = (min(across) + max(across)) / 2
    rows = []
    for name, point in zip(marks, round_floats(points.tolist(), digits=6), strict=True):
        x, y, low, high = point
        align = "left" if x <= middle else "right"
        rows.append({"series": name, "x": x, "y": y, "low": low, "high": high, "align": align})
    return rows
