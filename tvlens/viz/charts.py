"""Charts of single numbers: intervals of estimates, and distributions. Vega-Lite as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tvlens.viz.arrays import Numbers, array, require_same_length, rounded
from tvlens.viz.figure import Figure
from tvlens.viz.theme import CATEGORIES, NEUTRAL, chart, colors, legend_columns, lookup, visible

_NUMBER = ".4~g"


def intervals(
    rows: Sequence[tuple[str, float, float, float]],
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
    numbers = array([row[1:] for row in rows], name="rows", axes=["row", "value/low/high"])
    labels = [visible(row[0]) for row in rows]
    data = [
        {"row": i, "label": label, "value": value, "low": low, "high": high}
        for i, (label, (value, low, high)) in enumerate(
            zip(labels, rounded(numbers.tolist()), strict=True)
        )
    ]
    encoding: dict[str, Any] = {
        "y": {
            "field": "row",
            "type": "ordinal",
            "title": None,
            "axis": {
                "labelExpr": lookup(labels, "datum.value"),
                "labelLimit": 190,
                "ticks": False,
                "domain": False,
                "labelPadding": 8,
            },
        }
    }
    encoding["tooltip"] = [
        {"field": "label", "type": "nominal", "title": "row"},
        *(
            {"field": key, "type": "quantitative", "title": name, "format": _NUMBER}
            for key, name in (("value", x_title or "value"), ("low", "low"), ("high", "high"))
        ),
    ]
    color: dict[str, Any] = {"value": CATEGORIES[0]}
    names: list[str] = []
    if groups is not None:
        require_same_length("rows", len(rows), "groups", len(groups))
        names = list(dict.fromkeys(str(group) for group in groups))
        for entry, group in zip(data, groups, strict=True):
            entry["group"] = str(group)
        color = {
            "field": "group",
            "type": "nominal",
            "scale": {"domain": names, "range": colors(len(names))},
            "legend": {"title": None, "symbolType": "circle", "columns": legend_columns(names)},
        }
    x_axis = {"type": "quantitative", "title": x_title or None, "scale": {"zero": False}}
    whisker = {"x": {**x_axis, "field": "low"}, "x2": {"field": "high"}, "color": color}
    dot = {"x": {**x_axis, "field": "value"}, "color": color}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "rule", "strokeWidth": 2.2}, "encoding": whisker},
        {"mark": {"type": "point", "filled": True, "size": 80, "opacity": 1}, "encoding": dot},
    ]
    if numbers.min() < 0 < numbers.max():  # zero means "no effect" and deserves a line
        zero = {"mark": {"type": "rule", "opacity": 0.5}, "encoding": {"x": {"datum": 0}}}
        layers.insert(0, zero)
    body = {"data": {"values": data}, "encoding": encoding, "layer": layers}
    alt = f"{title or 'estimates'}: {len(rows)} estimates with intervals"
    reserve = 48 + 24 * bool(names)
    height = 26 * len(rows)
    return chart(
        body, title=title, caption=caption, alt=alt, height=height, reserve=reserve, fit="fit-x"
    )


def histogram(
    values: Numbers,
    *,
    mark: float | None = None,
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
        mark_label: what the line is.
        bins: number of bars.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    import numpy as np

    values = array(values, name="values", axes=["n"])
    if not len(values):
        raise ValueError("histogram needs at least one value")
    counts, edges = np.histogram(values, bins=bins)
    limits = [{"low": low, "high": high} for low, high in pairwise(edges)]
    data = [
        {**rounded(edge, digits=6), "count": count}
        for edge, count in zip(limits, counts.tolist(), strict=True)
    ]
    x_axis = {"type": "quantitative", "title": x_title or None, "axis": {"grid": False}}
    x_axis["scale"] = {"zero": False, "nice": False, "padding": 12}
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": data},
            "mark": {"type": "bar", "color": NEUTRAL, "binSpacing": 1},
            "encoding": {
                "x": {**x_axis, "field": "low", "bin": {"binned": True}},
                "x2": {"field": "high"},
                "y": {"field": "count", "type": "quantitative", "title": y_title},
                "tooltip": [
                    {"field": "low", "type": "quantitative", "title": "from", "format": _NUMBER},
                    {"field": "high", "type": "quantitative", "title": "to", "format": _NUMBER},
                    {"field": "count", "type": "quantitative", "title": y_title},
                ],
            },
        }
    ]
    alt = f"{title or 'histogram'}: {len(values)} values from {values.min():.3g} to "
    alt += f"{values.max():.3g}"
    if mark is not None:
        layers += _marked(float(mark), mark_label, values, x_axis)
        alt += f", {mark_label} {mark:.3g}"
    return chart({"layer": layers}, title=title, caption=caption, alt=alt, height=280)


def _marked(mark: float, label: str, values: Any, x_axis: dict[str, Any]) -> list[dict[str, Any]]:
    """A vertical line over the whole height, with its label above the plot."""
    data = {"values": [{"mark": rounded(mark, digits=6), "label": f"{label} {mark:.3g}"}]}
    lowest, highest = min(values.min(), mark), max(values.max(), mark)
    right = mark > (lowest + highest) / 2  # there the label ends at the line instead of starting
    x = {**x_axis, "field": "mark"}
    color = {"value": "#D55E00"}
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
