"""Where labels next to points can stand without covering each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Plot sizes, in pixels, in which labels must not overlap: a phone and a page.
_PLOTS = ((270, 300), (640, 300))
_CHARACTER, _LINE, _DOT = 6.4, 14.0, 7.0

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
        top = y + self.dy - _LINE / 2
        return left, top, left + width, top + _LINE


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
    plots = [_pixels(points, width, height) for width, height in _PLOTS]
    taken = [[(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in plot] for plot in plots]
    chosen: dict[Side, list[int]] = {}
    for i, label in enumerate(labels):
        width = min(150.0, _CHARACTER * len(label))
        for side in SIDES:
            boxes = [side.box(*plot[i], width) for plot in plots]
            if all(
                _inside(box, size) and not any(_overlap(box, other) for other in _others(others, i))
                for box, size, others in zip(boxes, _PLOTS, taken, strict=True)
            ):
                chosen.setdefault(side, []).append(i)
                for others, box in zip(taken, boxes, strict=True):
                    others.append(box)
                break
    return chosen


def _others(boxes: list[Box], own: int) -> list[Box]:
    """All boxes but that of the point itself."""
    return boxes[:own] + boxes[own + 1 :]


def _pixels(
    points: Sequence[Sequence[float]], width: float, height: float
) -> list[tuple[float, float]]:
    """Positions in a plot that leaves 18 pixels around the points, as `scatter` does."""
    columns = []
    for axis, size in ((0, width), (1, height)):
        values = [point[axis] for point in points]
        low, span = min(values), (max(values) - min(values)) or 1.0
        columns.append([18 + (size - 36) * (value - low) / span for value in values])
    return [(x, height - y) for x, y in zip(*columns, strict=True)]


def _inside(box: Box, size: tuple[float, float]) -> bool:
    return box[0] >= 0 and box[1] >= -4 and box[2] <= size[0] and box[3] <= size[1] + 4


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
