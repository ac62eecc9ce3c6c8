"""Data rows of `curves.lines`: curves, the bands around them, reference levels and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arrays import Numbers, array, require_same_length, rounded


def curve_rows(
    series: Mapping[str, Numbers], x: Numbers | None
) -> tuple[list[dict[str, Any]], list[float]]:
    """One row per point, and the common positions [x].

    Raises:
        ValueError: series of different lengths, or another number of positions.
    """
    curves = {
        name: array(values, name=f"series {name!r}", axes=["x"], missing=True)
        for name, values in series.items()
    }
    length = len(next(iter(curves.values())))
    points = range(length) if x is None else array(x, name="x", axes=["x"]).tolist()
    positions = rounded([float(point) for point in points], digits=6)
    for name, values in curves.items():
        require_same_length("x positions", len(positions), f"values of {name!r}", len(values))
    rows = [
        {"series": name, "x": position, "y": value}
        for name, values in curves.items()
        for position, value in zip(positions, rounded(values.tolist()), strict=True)
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
            array(limit, name=f"{side} of band {name!r}", axes=["x"], missing=True)
            for side, limit in zip(("low", "high"), limits, strict=True)
        )
        for side in (low, high):
            require_same_length("x positions", len(positions), f"limits of {name!r}", len(side))
        pairs = zip(rounded(low.tolist()), rounded(high.tolist()), strict=True)
        rows += [
            {"series": name, "x": position, "low": bottom, "high": top}
            for position, (bottom, top) in zip(positions, pairs, strict=True)
        ]
    return rows


def rule_rows(rules: Mapping[str, Numbers]) -> list[dict[str, Any]]:
    """One row per level; its name, which the legend shows, says the number."""
    if not rules:
        return []
    levels = array(list(rules.values()), name="rules", axes=["rule"]).tolist()
    return [
        {"series": f"{name} ({level:.3g})", "y": rounded(level)}
        for name, level in zip(rules, levels, strict=True)
    ]


def mark_rows(
    marks: Mapping[str, Sequence[Numbers]], positions: list[float]
) -> list[dict[str, Any]]:
    """One row per mark; `align` says to which side its label, above the plot, extends."""
    if not marks:
        return []
    points = array(list(marks.values()), name="marks", axes=["mark", "x/y/low/high"])
    across = [*positions, *points[:, 0].tolist()]
    middle = (min(across) + max(across)) / 2
    rows = []
    for name, point in zip(marks, rounded(points.tolist(), digits=6), strict=True):
        x, y, low, high = point
        align = "left" if x <= middle else "right"
        rows.append({"series": name, "x": x, "y": y, "low": low, "high": high, "align": align})
    return rows
