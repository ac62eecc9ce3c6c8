"""Scatter plots with labels that do not overlap, as Vega-Lite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arrays import Numbers, as_array, check_same_length, round_floats
from .figure import Figure
from .theme import (
    CATEGORIES,
    choose_colors,
    escape_whitespace,
    legend_columns,
    make_chart,
    nonzero_scale,
    quantitative_axis,
    tooltip_number,
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
    points = as_array(points, name="points", axes=["n", "x/y"])
    if points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be [n, 2] with n > 0, got {points.shape}")
    check_same_length("points", len(points), "labels", len(labels))
    names = [escape_whitespace(label) for label in labels]
    data = [
        {"x": x, "y": y, "label": name}
        for (x, y), name in zip(round_floats(points.tolist(), digits=6), names, strict=True)
    ]
    scales = [{"scale": {**nonzero_scale(axis.tolist()), "padding": 18}} for axis in points.T]
    encoding: dict[str, Any] = {
        "x": {**quantitative_axis("x", x_title), **scales[0]},
        "y": {**quantitative_axis("y", y_title), **scales[1]},
        "tooltip": [{"field": "label", "type": "nominal", "title": "label"}],
    }
    dot: dict[str, Any] = {"color": {"value": CATEGORIES[0]}}
    if groups is not None:
        check_same_length("points", len(points), "groups", len(groups))
        for entry, group in zip(data, groups, strict=True):
            entry["group"] = escape_whitespace(group)
        dot = _group_encoding(list(dict.fromkeys(entry["group"] for entry in data)))
        encoding["tooltip"].append({"field": "group", "type": "nominal", "title": "group"})
    encoding["tooltip"] += [
        tooltip_number("x", x_title or "x"),
        tooltip_number("y", y_title or "y"),
    ]
    mark = {"type": "point", "filled": True, "size": 90, "opacity": 0.9}
    layers = [{"mark": mark, "encoding": dot}, *_label_layers(points, names, data)]
    body = {"data": {"values": data}, "encoding": encoding, "layer": layers}
    alt = f"{title or 'map of points'}: {len(points)} points"
    alt += f" in {len(dot['color']['scale']['domain'])} groups" if groups is not None else ""
    return make_chart(body, title=title, caption=caption, alt=alt, height=400)


def _group_encoding(names: list[str]) -> dict[str, Any]:
    field = {"field": "group", "type": "nominal", "sort": None}
    legend = {"title": None, "columns": legend_columns(names)}
    shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke"]
    shapes = [shapes[i % 6] for i in range(len(names))]
    return {
        "color": {
            **field,
            "scale": {"domain": names, "range": choose_colors(len(names))},
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


# Plot sizes, in pixels, in which labels must not overlap: a phone and a page.
_PLOTS = ((270, 300), (640, 300))
_CHARACTER_WIDTH, _LINE_HEIGHT, _DOT_RADIUS = 6.4, 14.0, 7.0

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Side:
    """A side of a point: text alignment, and the offset in pixels (y grows downwards)."""

    align: str
    dx: int
    dy: int

    @property
    def style(self) -> dict[str, Any]:
        """The same as properties of a Vega-Lite text mark."""
        return {"align": self.align, "baseline": "middle", "dx": self.dx, "dy": self.dy}

    def box(self, x: float, y: float, width: float) -> Box:
        """(left, top, right, bottom) of a text of this width next to the point (x, y)."""
        left = x + self.dx - {"left": 0.0, "center": width / 2, "right": width}[self.align]
        top = y + self.dy - _LINE_HEIGHT / 2
        return left, top, left + width, top + _LINE_HEIGHT


SIDES = (
    Side("left", 9, 0),
    Side("right", -9, 0),
    Side("center", 0, -13),
    Side("center", 0, 14),
    Side("left", 7, -10),
    Side("right", -7, -10),
    Side("left", 7, 11),
    Side("right", -7, 11),
)


def place_labels(points: Sequence[Sequence[float]], labels: Sequence[str]) -> dict[Side, list[int]]:
    """Choose a side for as many labels as fit, first come first served.

    Args:
        points: [n 2], in data units, y growing upwards.
        labels: [n].

    Returns:
        side -> indices of the points whose labels stand there. A label that would cover another
        label, a dot or the border is left out.
    """
    plots = [_to_pixels(points, width, height) for width, height in _PLOTS]
    occupied = [[_dot_box(x, y) for x, y in plot] for plot in plots]
    chosen: dict[Side, list[int]] = {}
    for i, label in enumerate(labels):
        width = min(150.0, _CHARACTER_WIDTH * len(label))
        for side in SIDES:
            boxes = [side.box(*plot[i], width) for plot in plots]
            if all(
                _is_inside(box, size)
                and not any(_overlaps(box, other) for other in others[:i] + others[i + 1 :])
                for box, size, others in zip(boxes, _PLOTS, occupied, strict=True)
            ):
                chosen.setdefault(side, []).append(i)
                for others, box in zip(occupied, boxes, strict=True):
                    others.append(box)
                break
    return chosen


def _to_pixels(
    points: Sequence[Sequence[float]], width: float, height: float
) -> list[tuple[float, float]]:
    """Convert points to pixels of a plot with a margin of 18 pixels, as in `scatter`."""
    columns = []
    for axis, size in ((0, width), (1, height)):
        values = [point[axis] for point in points]
        low, span = min(values), (max(values) - min(values)) or 1.0
        columns.append([18 + (size - 36) * (value - low) / span for value in values])
    return [(x, height - y) for x, y in zip(*columns, strict=True)]


def _dot_box(x: float, y: float) -> Box:
    return x - _DOT_RADIUS, y - _DOT_RADIUS, x + _DOT_RADIUS, y + _DOT_RADIUS


def _is_inside(box: Box, size: tuple[float, float]) -> bool:
    return box[0] >= 0 and box[1] >= -4 and box[2] <= size[0] and box[3] <= size[1] + 4


def _overlaps(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
