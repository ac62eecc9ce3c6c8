"""Maps of points with labels, such as vectors in two dimensions. Vega-Lite as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arrays import Numbers, array, require_same_length, rounded
from .figure import Figure
from .placement import place_labels
from .theme import (
    CATEGORIES,
    chart,
    colors,
    extent,
    hovered,
    legend_columns,
    quantity,
    visible,
)


def scatter(
    points: Numbers,
    *,
    labels: Sequence[object],
    groups: Sequence[object] | None = None,
    x_title: str = "",
    y_title: str = "",
    title: str = "",
    caption: str = "",
) -> Figure:
    """Map of points, for example of vectors in their first two principal components.

    Labels are written next to points as far as there is room, also on a narrow screen; hovering
    names every point.

    Args:
        points: [n 2].
        labels: [n].
        groups: [n], shown by colour and shape.
        x_title, y_title: axis titles.

    Raises:
        ValueError: different lengths, or numbers that are not finite.
    """
    points = array(points, name="points", axes=["n", "x/y"])
    if points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be [n, 2] with n > 0, got {points.shape}")
    require_same_length("points", len(points), "labels", len(labels))
    names = [visible(label) for label in labels]
    data = [
        {"x": x, "y": y, "label": name}
        for (x, y), name in zip(rounded(points.tolist(), digits=6), names, strict=True)
    ]
    scales = [{"scale": {**extent(axis.tolist()), "padding": 18}} for axis in points.T]
    encoding: dict[str, Any] = {
        "x": {**quantity("x", x_title), **scales[0]},
        "y": {**quantity("y", y_title), **scales[1]},
        "tooltip": [{"field": "label", "type": "nominal", "title": "label"}],
    }
    dot: dict[str, Any] = {"color": {"value": CATEGORIES[0]}}
    if groups is not None:
        require_same_length("points", len(points), "groups", len(groups))
        for entry, group in zip(data, groups, strict=True):
            entry["group"] = visible(group)
        dot = _group_encoding(list(dict.fromkeys(entry["group"] for entry in data)))
        encoding["tooltip"].append({"field": "group", "type": "nominal", "title": "group"})
    encoding["tooltip"] += [hovered("x", x_title or "x"), hovered("y", y_title or "y")]
    mark = {"type": "point", "filled": True, "size": 90, "opacity": 0.9}
    layers = [{"mark": mark, "encoding": dot}, *_label_layers(points, names, data)]
    body = {"data": {"values": data}, "encoding": encoding, "layer": layers}
    alt = f"{title or 'map of points'}: {len(points)} points"
    alt += f" in {len(dot['color']['scale']['domain'])} groups" if groups is not None else ""
    return chart(body, title=title, caption=caption, alt=alt, height=400)


def _group_encoding(names: list[str]) -> dict[str, Any]:
    field = {"field": "group", "type": "nominal", "sort": None}
    legend = {"title": None, "columns": legend_columns(names)}
    shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke"]
    shapes = [shapes[i % 6] for i in range(len(names))]
    return {
        "color": {
            **field,
            "scale": {"domain": names, "range": colors(len(names))},
            "legend": legend,
        },
        "shape": {**field, "scale": {"domain": names, "range": shapes}, "legend": legend},
    }


def _label_layers(
    points: Any, names: Sequence[str], data: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One text layer per side on which labels stand."""
    layers = []
    for side, chosen in place_labels(points.tolist(), names).items():
        mark = {"type": "text", **side.style, "fontSize": 11.5, "limit": 150}
        layer = {"data": {"values": [data[i] for i in chosen]}, "mark": mark}
        layers.append({**layer, "encoding": {"text": {"field": "label", "type": "nominal"}}})
    return layers
