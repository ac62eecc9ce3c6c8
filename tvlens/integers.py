"""Integer arguments of Python, NumPy and PyTorch, one or several."""

import numbers
from collections.abc import Iterable
from typing import Any, SupportsIndex

from .errors import TvlensError

# For signatures: NumPy's and PyTorch's integers are no `int`.
Integer = SupportsIndex
Integers = SupportsIndex | Iterable[SupportsIndex]


def is_integer(value: Any) -> bool:
    """Whether a value is one integer: an int, a NumPy integer or a tensor or array without axes.

    Booleans do not count: `True` as a layer is a mistake and not layer 1.
    """
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def as_integer(value: Any, *, name: str, minimum: int | None = None) -> int:
    """Convert one integer to an int.

    Args:
        name: name of the argument in the error message.
        minimum: smallest valid value.

    Raises:
        TvlensError: not one integer, or one below the minimum.
    """
    if not is_integer(value):
        raise TvlensError(f"{name} must be one integer, not {_abbreviate(value)}")
    if minimum is not None and value < minimum:
        raise TvlensError(f"{name} must be {minimum} or more, not {int(value)}")
    return int(value)


def as_integers(value: Any, *, name: str) -> list[int]:
    """Convert one integer or several (list, range, array or tensor) to a list of ints.

    Raises:
        TvlensError: another type, or no integers.
    """
    if is_integer(value):
        return [int(value)]
    is_iterable = isinstance(value, Iterable) and not isinstance(value, str | bytes | dict)
    # A tensor without axes is an Iterable, but cannot be iterated over.
    items: list[Any] = list(value) if is_iterable and getattr(value, "ndim", None) != 0 else [None]
    if not items:
        raise TvlensError(f"{name} is empty")
    if not all(is_integer(item) for item in items):
        raise TvlensError(f"{name} must be one integer or several, not {_abbreviate(value)}")
    return [int(item) for item in items]


def require_at_least(minimum: int, **values: Any) -> None:
    """Raise TvlensError unless every value is an integer of at least `minimum`."""
    for name, value in values.items():
        if not is_integer(value) or value < minimum:
            raise TvlensError(f"{name} is a whole number of at least {minimum}, not {value!r}")


def _abbreviate(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
