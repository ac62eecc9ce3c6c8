"""Curves over a common axis, with bands, reference levels and marked points. Vega-Lite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvlens.viz.arrays import Numbers
from tvlens.viz.curve_data import band_rows, curve_rows, mark_rows, rule_rows
from tvlens.viz.figure import Figure
from tvlens.viz.theme import CATEGORIES, INK, chart, colors, hovered, legend_columns, quantity

Layer = dict[str, Any]


def lines(
    series: Mapping[str, Numbers],
    *,
    x: Numbers | None = None,
    x_title: str = "",
    y_title: str = "",
    bands: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    rules: Mapping[str, float] | None = None,
    marks: Mapping[str, tuple[float, float, float, float]] | None = None,
    y_domain: tuple[float, float] | None = None,
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

    Raises:
        ValueError: no series, different lengths, or a band without its series.
    """
    if not series:
        raise ValueError("lines needs at least one series")
    values, positions = curve_rows(series, x)
    limits = band_rows(bands or {}, series, positions)
    levels = rule_rows(rules or {})
    marks = marks or {}
    above = 16 * len(marks)  # pixels that the labels of marks take
    color, dash = _strokes(list(series), [row["series"] for row in levels], offset=10 + above)
    axis = {"grid": False, **({"tickMinStep": 1} if x is None else {})}
    scale = {"zero": False, "nice": False, "padding": 8}
    across = {"x": {**quantity("x", x_title), "axis": axis, "scale": scale}}
    up = quantity("y", y_title)
    up["scale"] = {"domain": list(y_domain)} if y_domain else {"zero": False}
    name = {"field": "series", "type": "nominal", "title": "series"}
    hover = [name, hovered("x", x_title or "x"), hovered("y", y_title or "y")]
    low_high = [hovered("low", "low"), hovered("high", "high")]
    layers = [
        _layer(
            levels, {"type": "rule", "strokeWidth": 1.6}, [name, hover[2]], y=up, **color, **dash
        ),
        _layer(
            limits,
            {"type": "area", "opacity": 0.18, "clip": True},
            [*hover[:2], *low_high],
            **across,
            y={**up, "field": "low"},
            y2={"field": "high"},
            **color,
        ),
        _layer(values, {"type": "line", "strokeWidth": 2.2}, [], **across, y=up, **color, **dash),
        _layer(values, _dots(len(positions)), hover, **across, y=up, **color),
        *_mark_layers(mark_rows(marks, positions), across, up, [*hover, *low_high]),
    ]
    shown = [layer for layer in layers if layer["data"]["values"]]
    names = [*series, *(row["series"] for row in levels)]
    above += 21 * -(-len(names) // legend_columns(names)) if len(names) > 1 else 0
    alt = title or f"{y_title or 'values'} by {x_title or 'position'}"
    alt += f": {len(series)} curves ({', '.join(series)}) over {len(positions)} points"
    return chart({"layer": shown}, title=title, caption=caption, alt=alt, height=310 + above)


def _layer(
    rows: list[dict[str, Any]], mark: dict[str, Any], tooltip: list[Layer], **encoding: Any
) -> Layer:
    if tooltip:
        encoding["tooltip"] = tooltip
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}


def _strokes(curves: Sequence[str], levels: Sequence[str], *, offset: int) -> tuple[Layer, Layer]:
    """Encodings of colour and dashes, which share one legend.

    Curves have colours and solid lines. Levels are neutral and differ in their dashes.
    """
    names = [*curves, *levels]
    legend = {
        "title": None,
        "offset": offset,
        "symbolType": "stroke",
        "symbolSize": 300,
        "symbolStrokeWidth": 2.2,
        "columns": legend_columns(names),
    }
    patterns = ([6, 4], [2, 3], [10, 4], [10, 3, 2, 3])
    dashes = [[1, 0]] * len(curves) + [patterns[i % 4] for i in range(len(levels))]
    field = {"field": "series", "type": "nominal", "sort": None}
    field["legend"] = legend if len(names) > 1 else None
    shades = [*colors(len(curves)), *[INK] * len(levels)]
    return (
        {"color": {**field, "scale": {"domain": names, "range": shades}}},
        {"strokeDash": {**field, "scale": {"domain": names, "range": dashes}}},
    )


def _dots(count: int) -> Layer:
    """Visible dots where there is room; otherwise invisible ones that still answer to hovering."""
    size = {"size": 34, "opacity": 1} if count <= 40 else {"size": 90, "opacity": 0}
    return {"type": "point", "filled": True, **size}


def _mark_layers(
    rows: list[dict[str, Any]], across: Layer, up: Layer, hover: list[Layer]
) -> list[Layer]:
    """A whisker, a diamond and a label per mark."""
    diamond = {"type": "point", "shape": "diamond", "filled": True, "size": 150, "opacity": 1}
    diamond |= {"color": CATEGORIES[5], "stroke": INK, "strokeWidth": 1}
    ends = {"y": {**up, "field": "low"}, "y2": {"field": "high"}}
    leader = {"type": "rule", "strokeDash": [1, 3], "opacity": 0.7}
    up_to_label = {"y": {**up, "field": "high"}, "y2": {"value": 0}}
    layers = [
        _layer(rows, leader, [], **across, **up_to_label),
        _layer(rows, {"type": "rule", "strokeWidth": 2}, hover, **across, **ends),
        _layer(rows, diamond, hover, **across, y=up),
    ]
    for place, row in enumerate(rows):
        # Labels stand above the plot, one line each, where no curve can run through them.
        text = {"type": "text", "align": row["align"], "baseline": "bottom", "fontWeight": 600}
        label = {"text": {"field": "series", "type": "nominal"}, "y": {"value": -4 - 16 * place}}
        layers.append(_layer([row], text, hover, **across, **label))
    return layers
