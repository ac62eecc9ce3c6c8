"""The exception for invalid input, and suggestions for misspelled names.

Example:
    >>> print(tv.errors.unknown("task", "antonim", ["antonym", "gerund"]))
    unknown task 'antonim': did you mean 'antonym'?
"""

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class TvlensError(ValueError):
    """Invalid input; the command line prints it in one line.

    Example:
        >>> try:
        ...     tv.Task.load("singular-plurl")
        ... except tv.TvlensError as error:
        ...     print(error)
        unknown task 'singular-plurl': did you mean 'singular-plural' ...
    """


def unknown(kind: str, name: object, choices: Iterable[str], *, hint: str = "") -> TvlensError:
    """Create the error for an unknown name, with the nearest valid choices.

    Args:
        kind: kind of the name, for the message ("task", "site", "zoo model").
        name: the unknown name.
        choices: every valid name.
        hint: how to list all valid names, if there are many.
    """
    choices = list(choices)
    near = difflib.get_close_matches(str(name).lower(), choices, n=3, cutoff=0.5)
    if near:
        answer = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif len(choices) <= 16:
        answer = "choose from " + ", ".join(choices)
    else:
        answer = f"there are {len(choices)} choices"
    return TvlensError(f"unknown {kind} {str(name)!r}: {answer}" + (f" ({hint})" if hint else ""))


class NamedValues(dict[Any, Value], Generic[Value]):
    """Dictionary of values by name, or by one name per axis.

    Args:
        axes: names along each axis; with several axes, keys are tuples.
        values: one value per combination of names, the last axis fastest.

    Raises:
        TvlensError: on access, a name does not exist; names the nearest valid one.
    """

    def __init__(self, axes: Mapping[str, Sequence[str]], values: Iterable[Value]) -> None:
        keys: Iterable[Any] = itertools.product(*axes.values())
        super().__init__(zip(keys if len(axes) > 1 else (k for (k,) in keys), values, strict=True))
        self._axes = dict(axes)

    def __missing__(self, key: Any) -> Value:
        key = key if isinstance(key, tuple) else (key,)
        for (axis, names), name in zip(self._axes.items(), key, strict=False):
            if name not in names:
                raise unknown(axis, name, names)
        raise TvlensError(f"expected one name each of {', '.join(self._axes)}, not {key}")
