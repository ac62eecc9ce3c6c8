"""Accessible HTML tables."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from .figure import Figure


def table(rows: Sequence[Mapping[str, object]], *, title: str = "", caption: str = "") -> Figure:
    """Rows as an HTML table: floats with 3 decimals, numbers to the right, the rest as text.

    Args:
        rows: column -> value; columns are in order of first appearance, missing values are empty.
            The first column names the row.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("table needs at least one row")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {c for c in columns if all(_is_number(row.get(c)) for row in rows)}
    head = "".join(
        f'<th scope="col"{_align(column in numeric)}>{html.escape(column)}</th>'
        for column in columns
    )
    body = "\n".join(f"<tr>{_cells(row, columns)}</tr>" for row in rows)
    label = f' aria-label="{html.escape(title)}"' if title else ""
    text = (
        f'<table class="tvlens-table"{label}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )
    alt = f"{title or 'table'}: {len(rows)} rows, {len(columns)} columns"
    return Figure("html", {"html": text}, title=title, caption=caption, alt=alt)


def _cells(row: Mapping[str, object], columns: Sequence[str]) -> str:
    cells = []
    for place, column in enumerate(columns):
        value = _number(row.get(column))
        tag, scope = ("td", "") if place else ("th", ' scope="row"')
        align = _align(value is not None and _is_number(value))
        cells.append(f"<{tag}{scope}{align}>{html.escape(_text(value))}</{tag}>")
    return "".join(cells)


def _number(value: object) -> object:
    """Convert tensors and arrays of exactly one number to it."""
    return value.item() if getattr(value, "ndim", None) == 0 else value  # type: ignore[attr-defined]


def _is_number(value: object) -> bool:
    value = _number(value)
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _align(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
