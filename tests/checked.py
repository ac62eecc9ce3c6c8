"""The type checker that tests switch on: beartype, for which an int is a float as in PEP 484.

Named choices (`Literal`) are for readers and for type checkers: here they are any text, so that
tests see what a user sees who has neither, the package's own error about a wrong name.
"""

import functools
import operator
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from beartype import BeartypeConf, beartype

_CONTAINERS = (Collection, Iterable, Mapping, Sequence, dict, list, tuple)
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    hints = getattr(function, "__annotations__", None)
    if isinstance(hints, dict) and isinstance(function, types.FunctionType):
        function.__annotations__ = {name: _any_text(hint) for name, hint in hints.items()}
    return _beartype(function)


def _any_text(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return functools.reduce(operator.or_, {type(value) for value in get_args(hint)})
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(_any_text(one) for one in get_args(hint))]  # noqa: UP007
    if get_origin(hint) in _CONTAINERS:
        return get_origin(hint)[tuple(_any_text(one) for one in get_args(hint))]
    return hint
