"""Heat maps of tables of numbers, as Vega-Lite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arrays import Numbers, as_array, check_same_length, round_floats
from .figure import Figure
from .theme import (
    escape_whitespace,
    lookup_expression,
    make_chart,
    tooltip_number,
)

_MAX_ANNOTATED = 12  # rows or columns up to which numbers are written into the cells


def heatmap(
    values: Numbers,
    *,
    rows: Sequence[object],
    columns: Sequence[object],
    row_title: str = "",
    column_title: str = "",
    value_title: str = "value",
    diverging: bool = False,
    annotate: bool | None = None,
    marked: Sequence[tuple[int, int]] = (),
    title: str = "",
    caption: str = "",
) -> Figure:
    """Table of numbers as colours; hovering shows row, column and value.

    Args:
        values: [row column], the first row on top; NaN is drawn as a grey cell.
        rows, columns: labels, for example layers and tokens; they may repeat.
        row_title, column_title, value_title: titles of rows, columns and numbers.
        diverging: blue to orange, with white at 0, instead of viridis from smallest to largest.
        annotate: write the numbers into the cells; by default up to 12 x 12.
        marked: cells drawn with a frame, as (row, column) numbers.

    Raises:
        ValueError: different lengths, an empty table, infinity, or a marked cell outside.
    """
    import numpy as np

    values = as_array(values, name="values", axes=["row", "column"], allow_nan=True)
    check_same_length("row labels", len(rows), "rows of values", values.shape[0])
    check_same_length("column labels", len(columns), "columns of values", values.shape[1])
    if not np.isfinite(values).any():
        raise ValueError(f"values of shape {values.shape} have no number to show")
    row_labels = [escape_whitespace(row) for row in rows]
    column_labels = [escape_whitespace(column) for column in columns]
    if annotate is None:
        annotate = max(values.shape) <= _MAX_ANNOTATED
    body = {
        "data": {"values": _cell_values(values)},
        "transform": _cell_transforms(row_labels, column_labels),
        "encoding": {
            "x": _axis("column", column_labels, column_title, horizontal=True),
            "y": _axis("row", row_labels, row_title, horizontal=False),
            "description": {"field": "words", "type": "nominal"},  # for screen readers
            "tooltip": [
                {"field": "row label", "type": "nominal", "title": row_title or "row"},
                {"field": "column label", "type": "nominal", "title": column_title or "column"},
                tooltip_number("data", value_title),
            ],
        },
        "layer": _heat_layers(values, value_title, diverging, annotate)
        + _frame_layers(marked, values.shape),
    }
    alt = f"{title or 'heat map'}: {value_title} by {row_title or 'row'} ({len(rows)}) and "
    alt += f"{column_title or 'column'} ({len(columns)}), from {np.nanmin(values):.3g} to "
    alt += f"{np.nanmax(values):.3g}"
    sizes = _sizes(row_labels, column_labels, annotate)
    sizes["reserve"] += 24 * bool(column_title)
    return make_chart(body, title=title, caption=caption, alt=alt, fit="fit-x", **sizes)


def _sizes(rows: Sequence[str], columns: Sequence[str], annotate: bool) -> dict[str, int]:
    """Height of the cells, space below for labels, and least width, in pixels."""
    cell_height = (26 if annotate else 18) if len(rows) <= 40 else 12
    cell_width = (38 if annotate else 15) if len(columns) <= 60 else 6
    margin = 40 + 7 * min(20, max(map(len, rows)))
    labels = 15 if _fits_horizontally(columns) else min(100, 8 + 5 * max(map(len, columns)))
    return {
        "height": cell_height * len(rows),
        "reserve": 55 + labels,
        "minimum_width": margin + cell_width * len(columns),
    }


def _cell_values(values: Any) -> list[Any]:
    """Flat list: Vega reads a number as `{"data": number}`, but has no such short form for null."""
    numbers = round_floats(values.ravel().tolist())
    return [{"data": number} for number in numbers] if None in numbers else numbers


def _cell_transforms(rows: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Transforms from a flat list of numbers to cells: a third of the size of one object each."""
    where = "datum['row label'] + ', ' + datum['column label'] + ': '"
    return [
        {"window": [{"op": "row_number", "as": "index"}]},
        {"calculate": f"floor((datum.index - 1) / {len(columns)})", "as": "row"},
        {"calculate": f"(datum.index - 1) % {len(columns)}", "as": "column"},
        {"calculate": lookup_expression(rows, "datum.row"), "as": "row label"},
        {"calculate": lookup_expression(columns, "datum.column"), "as": "column label"},
        {"calculate": f"{where} + format(datum.data, '.4~g')", "as": "words"},
    ]


def _fits_horizontally(labels: Sequence[str]) -> bool:
    """Whether labels below the cells can be written horizontally."""
    longest = max(len(label) for label in labels)
    return longest <= (2 if len(labels) > 12 else 4) or 7 * longest * len(labels) <= 300


def _axis(field: str, labels: Sequence[str], title: str, *, horizontal: bool) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "labelExpr": lookup_expression(labels, "datum.value"),
        "labelLimit": 120 if horizontal else 150,
        "ticks": False,
        "labelPadding": 5,
        "domain": False,
        "grid": False,
        "labelFontSize": 11 if len(labels) <= 40 else 10,
        "labelOverlap": len(labels) > 60 or all(label.isdigit() for label in labels),
    }
    if horizontal:
        fits = _fits_horizontally(labels)
        axis |= {"labelAngle": 0 if fits else -55}
        axis |= {} if fits else {"labelAlign": "right", "labelBaseline": "middle"}
    return {
        "field": field,
        "type": "ordinal",
        "title": title or None,
        "axis": axis,
        "scale": {"paddingInner": 0.04 if len(labels) <= 40 else 0, "paddingOuter": 0},
    }


def _heat_layers(values: Any, title: str, diverging: bool, annotate: bool) -> list[dict[str, Any]]:
    import numpy as np

    if diverging:
        limit = float(np.nanmax(np.abs(values))) or 1.0
        scale = {"scheme": "blueorange", "domain": round_floats([-limit, limit])}
    else:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        low = 0.0 if 0 < low < 0.2 * high else low  # effects start at none
        scale = {"scheme": "viridis", "domain": round_floats([low, high]), "nice": False}
    legend = {"title": title, "gradientLength": 180, "gradientThickness": 10, "format": ".3~g"}
    color = {"field": "data", "type": "quantitative", "scale": scale, "legend": legend}
    shown = [{"filter": "isValid(datum.data)"}]
    layers: list[dict[str, Any]] = [
        {"transform": shown, "mark": {"type": "rect"}, "encoding": {"color": color}}
    ]
    if np.isnan(values).any():
        missing = {"transform": [{"filter": "!isValid(datum.data)"}]}
        layers.insert(0, {**missing, "mark": {"type": "rect", "color": "#8888", "opacity": 0.35}})
    if annotate:
        # Ink that contrasts with the cell, by the luminance of the cell's own colour.
        dark = "luminance(scale('color', datum.data)) > 0.2"
        ink = {"condition": {"test": dark, "value": "#111"}, "value": "#fff"}
        number = {"field": "data", "type": "quantitative", "format": _cell_format(values)}
        text = {
            "mark": {"type": "text", "fontSize": 11, "aria": False},
            "encoding": {"text": number, "color": ink},
        }
        layers.append({"transform": shown, **text})
    return layers


def _frame_layers(
    marked: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return a layer that draws frames around some cells."""
    outside = [cell for cell in marked if not (0 <= cell[0] < shape[0] and 0 <= cell[1] < shape[1])]
    if outside:
        raise ValueError(f"marked cell {outside[0]} is outside a table of {shape}")
    if not marked:
        return []
    numbers = [row * shape[1] + column + 1 for row, column in marked]
    frame = {"type": "rect", "filled": False, "stroke": "#d6336c", "strokeWidth": 2, "aria": False}
    return [
        {"transform": [{"filter": {"field": "index", "oneOf": numbers}}], "mark": frame},
    ]


def _cell_format(values: Any) -> str:
    """At most four characters or so: two decimals for small numbers, none for large ones."""
    import numpy as np

    if np.all(np.isnan(values) | (values == np.round(values))):
        return "d" if np.nanmax(np.abs(values)) < 1e4 else ".2~s"
    largest = float(np.nanmax(np.abs(values)))
    if largest < 0.01 or largest >= 1e4:
        return ".2~g"
    return ".2f" if largest < 10 else ".1f" if largest < 100 else ".0f"
