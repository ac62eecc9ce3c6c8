"""Charts of single numbers: intervals of estimates, and distributions. Vega-Lite as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .arrays import Numbers, as_array, check_same_length, round_floats
from .figure import Figure
from .theme import (
    CATEGORIES,
    NEUTRAL,
    choose_colors,
    escape_whitespace,
    legend_columns,
    lookup_expression,
    make_chart,
    nonzero_scale,
    quantitative_axis,
    title_height,
    tooltip_number,
    wrap_title,
)


def intervals(
    rows: Sequence[Sequence[Any]],
    *,
    groups: Sequence[str] | None = None,
    x_title: str = "",
    title: str = "",
    caption: str = "",
) -> Figure:
    """Dots with whiskers, one line per row: estimates with their intervals.

    Args:
        rows: (label, value, low, high), drawn from top to bottom; labels may repeat.
        groups: name of each row's group, shown by colour.
        x_title: axis title.

    Raises:
        ValueError: no rows, different lengths, or numbers that are not finite.
    """
    if not rows:
        raise ValueError("intervals needs at least one row")
    numbers = as_array([row[1:] for row in rows], name="rows", axes=["row", "value/low/high"])
    labels = [escape_whitespace(row[0]) for row in rows]
    keys = ("row", "label", "value", "low", "high")
    cells = zip(labels, round_floats(numbers.tolist()), strict=True)
    data = [
        dict(zip(keys, (i, label, *three), strict=True)) for i, (label, three) in enumerate(cells)
    ]
    color: dict[str, Any] = {"color": {"value": CATEGORIES[0]}}
    if groups is not None:
        check_same_length("rows", len(rows), "groups", len(groups))
        names = [escape_whitespace(group) for group in groups]
        data = [{**entry, "group": name} for entry, name in zip(data, names, strict=True)]
        color = {"color": _group_color(list(dict.fromkeys(names)))}
    scale = nonzero_scale(numbers.ravel().tolist())
    body: dict[str, Any] = {
        "data": {"values": data},
        "layer": _interval_layers(labels, x_title, color, scale),
    }
    if numbers.min() < 0 < numbers.max():  # zero means "no effect" and deserves a line
        zero = {"x": {"field": "zero", "type": "quantitative"}}
        thin = {"type": "rule", "opacity": 0.5}
        body["layer"].insert(0, {"data": {"values": [{"zero": 0}]}, "mark": thin, "encoding": zero})
    alt = f"{title or 'estimates'}: {len(rows)} estimates with intervals"
    reserve = 24 + title_height(x_title) + 24 * (groups is not None)
    height = 26 * len(rows)
    return make_chart(
        body, title=title, caption=caption, alt=alt, height=height, reserve=reserve, fit="fit-x"
    )


def _group_color(names: Sequence[str]) -> dict[str, Any]:
    return {
        "field": "group",
        "type": "nominal",
        "scale": {"domain": list(names), "range": choose_colors(len(names))},
        "legend": {"title": None, "symbolType": "circle", "columns": legend_columns(names)},
    }


def _interval_layers(
    labels: Sequence[str], x_title: str, color: dict[str, Any], scale: dict[str, Any]
) -> list[dict[str, Any]]:
    axis = {
        "labelExpr": lookup_expression(labels, "datum.value"),
        "labelLimit": 190,
        "labelPadding": 8,
    }
    axis |= {"ticks": False, "domain": False}
    shared = {"y": {"field": "row", "type": "ordinal", "title": None, "axis": axis}, **color}
    shared["tooltip"] = [
        {"field": "label", "type": "nominal", "title": "row"},
        tooltip_number("value", x_title or "value"),
        tooltip_number("low", "low"),
        tooltip_number("high", "high"),
    ]
    ends = {"x": {**quantitative_axis("low", x_title), "scale": scale}, "x2": {"field": "high"}}
    middle = {"x": {**quantitative_axis("value", x_title), "scale": scale}}
    dot = {"type": "point", "filled": True, "size": 80, "opacity": 1}
    return [
        {"mark": {"type": "rule", "strokeWidth": 2.2}, "encoding": {**shared, **ends}},
        {"mark": dot, "encoding": {**shared, **middle}},
    ]


def histogram(
    values: Numbers,
    *,
    mark: Numbers | None = None,
    mark_label: str = "observed",
    bins: int = 30,
    x_title: str = "",
    y_title: str = "count",
    title: str = "",
    caption: str = "",
) -> Figure:
    """Distribution of values, for example of a null, with one observed value marked.

    Args:
        values: [n].
        mark: position of a labelled vertical line, in the unit of the values.
        mark_label: label of the line.
        bins: number of bars.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    import numpy as np

    values = as_array(values, name="values", axes=["n"], max_numbers=None)
    if not len(values):
        raise ValueError("histogram needs at least one value")
    counts, edges = np.histogram(values, bins=bins)
    limits = pairwise(round_floats(edges.tolist(), digits=6))
    data = [
        {"low": low, "high": high, "count": count}
        for (low, high), count in zip(limits, counts.tolist(), strict=True)
    ]
    x_axis = {"type": "quantitative", "title": wrap_title(x_title), "axis": {"grid": False}}
    x_axis["scale"] = {"zero": False, "nice": False, "padding": 12}
    tooltip = {"low": "from", "high": "to", "count": y_title}
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": data},
            "mark": {"type": "bar", "color": NEUTRAL, "binSpacing": 1},
            "encoding": {
                "x": {**x_axis, "field": "low", "bin": {"binned": True}},
                "x2": {"field": "high"},
                "y": quantitative_axis("count", y_title),
                "tooltip": [tooltip_number(field, name) for field, name in tooltip.items()],
            },
        }
    ]
    alt = f"{title or 'histogram'}: {len(values)} values from {values.min():.3g} to "
    alt += f"{values.max():.3g}"
    if mark is not None:
        mark = float(mark)
        layers += _mark_layers(mark, mark_label, values, x_axis)
        alt += f", {mark_label} {mark:.3g}"
    return make_chart({"layer": layers}, title=title, caption=caption, alt=alt, height=280)


def _mark_layers(
    mark: float, label: str, values: Any, x_axis: dict[str, Any]
) -> list[dict[str, Any]]:
    """A vertical line over the whole height, with its label above the plot."""
    data = {"values": [{"mark": round_floats(mark, digits=6), "label": f"{label} {mark:.3g}"}]}
    lowest, highest = min(values.min(), mark), max(values.max(), mark)
    right = mark > (lowest + highest) / 2  # there the label ends at the line instead of starting
    x = {**x_axis, "field": "mark"}
    color = {"value": CATEGORIES[5]}
    tooltip = {"field": "label", "type": "nominal", "title": "mark"}
    return [
        {
            "data": data,
            "mark": {"type": "rule", "strokeWidth": 2.5},
            "encoding": {"x": x, "color": color, "tooltip": tooltip},
        },
        {
            "data": data,
            "mark": {
                "type": "text",
                "align": "right" if right else "left",
                "baseline": "bottom",
                "fontWeight": 600,
            },
            "encoding": {"x": x, "y": {"value": -5}, "text": {"field": "label"}},
        },
    ]
