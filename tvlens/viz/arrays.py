"""Conversion of tensors, arrays and lists to the numbers of a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Numbers = Any
"""A torch tensor on any device and of any dtype, a numpy array, nested lists, or one number."""


MAX_NUMBERS = 200_000
"""Numbers that a figure may hold; more would make pages of many megabytes that browsers
cannot display."""


def as_array(
    values: Numbers,
    *,
    name: str,
    axes: Sequence[str],
    allow_nan: bool = False,
    max_numbers: int | None = MAX_NUMBERS,
) -> Any:
    """Return `values` as a numpy array of float64 with the given axes.

    Args:
        values: torch tensor, numpy array or nested lists.
        name: name of the values in error messages.
        axes: one name per dimension, for example `("row", "column")`.
        allow_nan: whether NaN is allowed; infinity never is.
        max_numbers: largest allowed number of values; None for no limit.

    Raises:
        ValueError: wrong number of dimensions, ragged lists, too many numbers, or ones that are
            not finite.
    """
    import numpy as np

    try:
        result = np.asarray(_to_numpy(values), dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape [{', '.join(axes)}]: {error}") from error
    if result.ndim != len(axes):
        raise ValueError(f"{name} must have axes [{', '.join(axes)}], got shape {result.shape}")
    if max_numbers is not None and result.size > max_numbers:
        raise ValueError(
            f"{name} holds {result.size:,} numbers, more than the {max_numbers:,} that a page can "
            "show: choose a part of them"
        )
    is_invalid = np.isinf(result) if allow_nan else ~np.isfinite(result)
    if is_invalid.any():
        first = tuple(int(i) for i in np.argwhere(is_invalid)[0])
        where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, first, strict=True))
        count = f"{int(is_invalid.sum())} of {is_invalid.size} numbers"
        raise ValueError(f"{count} in {name} are NaN or infinite, first at {where}")
    return result


def _to_numpy(values: Numbers) -> Any:
    """Convert tensors to arrays, also inside lists; through float64, as numpy has no bfloat16."""
    if hasattr(values, "detach"):
        return values.detach().cpu().double().numpy()
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_to_numpy(value) for value in values]
    return values


def round_floats(value: Any, *, digits: int = 4) -> Any:
    """Round every float in nested lists and mappings to `digits` significant digits.

    Whole numbers stay exact (a training step 12345 must not become 12340) and lose their ".0";
    NaN becomes None. Four digits are more than a figure can show, and keep pages small.
    """
    if isinstance(value, Mapping):
        return {key: round_floats(item, digits=digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [round_floats(item, digits=digits) for item in value]
    if isinstance(value, float):
        return _round_float(value, digits)
    return value


def _round_float(value: float, digits: int) -> float | int | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise ValueError("a figure cannot show infinity; replace it by a finite number")
    if abs(value) < 2**53 and value.is_integer():
        return int(value)
    short = float(f"{value:.{digits}g}")
    return int(short) if abs(short) < 2**53 and short.is_integer() else short


def check_same_length(first: str, first_length: int, second: str, second_length: int) -> None:
    """Raise a ValueError that names both things and both lengths, unless these agree."""
    if first_length != second_length:
        raise ValueError(
            f"{first} and {second} must have the same length, "
            f"got {first_length} {first} and {second_length} {second}"
        )
