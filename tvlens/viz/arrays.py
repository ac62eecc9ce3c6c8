"""Numbers for pictures: torch, numpy or lists in; small plain Python numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Numbers = Any
"""A torch tensor on any device and of any dtype, a numpy array, nested lists, or one number."""


LARGEST = 200_000
"""Numbers that a picture may hold; with more, pages take megabytes and browsers stand still."""


def array(
    values: Numbers,
    *,
    name: str,
    axes: Sequence[str],
    missing: bool = False,
    largest: int | None = LARGEST,
) -> Any:
    """Return `values` as a numpy array of float64 with the given axes.

    Args:
        values: torch tensor, numpy array or nested lists.
        name: what error messages call it.
        axes: one name per dimension, for example `("row", "column")`.
        missing: whether NaN is allowed; infinity never is.
        largest: how many numbers there may be; None where the picture holds only few of them.

    Raises:
        ValueError: wrong number of dimensions, ragged lists, too many numbers, or ones that are
            not finite.
    """
    import numpy as np

    try:
        result = np.asarray(_plain(values), dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape [{', '.join(axes)}]: {error}") from error
    if result.ndim != len(axes):
        raise ValueError(f"{name} must have axes [{', '.join(axes)}], got shape {result.shape}")
    if largest is not None and result.size > largest:
        raise ValueError(
            f"{name} holds {result.size:,} numbers, more than the {largest:,} that a page can "
            "show: choose a part of them"
        )
    bad = np.isinf(result) if missing else ~np.isfinite(result)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, first, strict=True))
        count = f"{int(bad.sum())} of {bad.size} numbers"
        raise ValueError(f"{count} in {name} are NaN or infinite, first at {where}")
    return result


def _plain(values: Numbers) -> Any:
    """Tensors become arrays, also inside lists; as numpy has no bfloat16, by way of double."""
    if hasattr(values, "detach"):
        return values.detach().cpu().double().numpy()
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_plain(value) for value in values]
    return values


def rounded(value: Any, *, digits: int = 4) -> Any:
    """Round every float in nested lists and mappings to `digits` significant digits.

    Whole numbers stay exact (a training step 12345 must not become 12340) and lose their ".0";
    NaN becomes None. Four digits are more than a picture can show and keep pages small.
    """
    if isinstance(value, Mapping):
        return {key: rounded(item, digits=digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits=digits) for item in value]
    if isinstance(value, float):
        return _rounded_float(value, digits)
    return value


def _rounded_float(value: float, digits: int) -> float | int | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise ValueError("infinity has no place in a picture; replace it by a finite number")
    if abs(value) < 2**53 and value.is_integer():
        return int(value)
    short = float(f"{value:.{digits}g}")
    return int(short) if abs(short) < 2**53 and short.is_integer() else short


def require_same_length(first: str, first_length: int, second: str, second_length: int) -> None:
    """Raise a ValueError that names both things and both lengths, unless these agree."""
    if first_length != second_length:
        raise ValueError(
            f"{first} and {second} must have the same length, "
            f"got {first_length} {first} and {second_length} {second}"
        )
