"""The type checker that tests switch on: beartype, for which an int is a float as in PEP 484.

Named choices (`Literal`) are for readers and for type checkers: here they are any text, so that
tests see what a user sees who has neither, the package's own error about a wrong name.

A function defined inside of another one is checked like any other, but its checks are built once
instead of at every definition, which took a third of the time of the tests.
"""

import functools
import inspect
import operator
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

_CONTAINERS = (Collection, Iterable, Mapping, Sequence, dict, list, tuple)
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


# Code of a function -> jaxtyping's wrapper of it, around `_NO_FUNCTION`.
_wrappers: dict[types.CodeType, types.FunctionType] = {}
_NO_FUNCTION = object()
_jaxtyped = jaxtyping.jaxtyped


def reuse_checks() -> None:
    """Build the checks of a definition once, however often it is executed."""

    def jaxtyped(*, typechecker: Callable) -> Callable:
        return functools.partial(_wrap, typechecker=typechecker)

    jaxtyping.jaxtyped = jaxtyped


def _wrap(function: Any, *, typechecker: Callable) -> Any:
    code = getattr(function, "__code__", None)
    if code is None or not code.co_flags & inspect.CO_NESTED:
        return _jaxtyped(function, typechecker=typechecker)
    if code not in _wrappers:
        wrapper = _jaxtyped(function, typechecker=typechecker)
        _wrappers[code] = _rebind(wrapper, function, _NO_FUNCTION)
    return functools.update_wrapper(_rebind(_wrappers[code], _NO_FUNCTION, function), function)


def _rebind(wrapper: types.FunctionType, old: Any, new: Any) -> types.FunctionType:
    """A copy of jaxtyping's wrapper of one function, around another one."""
    cells = []
    for cell in wrapper.__closure__ or ():
        content = cell.cell_contents
        if content is old:
            content = new
        elif getattr(content, "__name__", "") == "wrapped_fn_impl":
            content = _rebind(content, old, new)
        cells.append(types.CellType(content))
    return types.FunctionType(
        wrapper.__code__, wrapper.__globals__, wrapper.__name__, closure=tuple(cells)
    )


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
