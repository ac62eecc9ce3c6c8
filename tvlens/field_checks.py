"""Checks of values read from a file against the annotations of a dataclass."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .errors import TvlensError


def check_fields(cls: type, values: Mapping[str, Any]) -> None:
    """Raise TvlensError unless a dataclass can be made of these values.

    Types are compared with the fields' annotations; axes of tensors with one name are equally long.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in fields:
            raise TvlensError(f"{cls.__name__} has no field {name!r} in this version")
    sizes: dict[str, int] = {}
    for name, field in fields.items():
        if name in values:
            check_value(name, values[name], field_types(cls).get(name, Any), sizes)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TvlensError(f"{name!r} is missing, which this version needs")


def check_value(name: str, value: Any, annotation: Any, sizes: dict[str, int]) -> None:
    """Raise TvlensError unless a value is of an annotation's type.

    Args:
        sizes: length of every named axis so far; those of this value are added.
    """
    if not _matches(value, annotation, sizes):
        text = f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)
        expected = getattr(annotation, "__name__", None) or str(annotation)
        raise TvlensError(f"{name} is {text[:60]}, not {expected}")


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The annotation of every field of a dataclass."""
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a name that is there for type checkers only
        return {f.name: f.type for f in dataclasses.fields(cls) if not isinstance(f.type, str)}


def _matches(value: Any, annotation: Any, sizes: dict[str, int]) -> bool:
    """Whether a value is of an annotation's type; of a kind unknown here it always is."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, one, sizes) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hasattr(annotation, "dim_str"):
        return _matches_array(value, annotation, sizes)
    if origin is tuple:
        return _matches_tuple(value, arguments, sizes)
    if isinstance(origin, type):
        return _matches_container(value, origin, arguments, sizes)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(annotation, type) or isinstance(value, annotation)


def _matches_tuple(value: Any, arguments: tuple, sizes: dict[str, int]) -> bool:
    if not isinstance(value, tuple | list):
        return False
    if arguments[-1:] == (Ellipsis,):
        arguments = arguments[:1] * len(value)
    if not arguments:
        return True
    pairs = zip(value, arguments, strict=False)
    return len(value) == len(arguments) and all(_matches(v, a, sizes) for v, a in pairs)


def _matches_container(value: Any, origin: type, arguments: tuple, sizes: dict[str, int]) -> bool:
    if issubclass(origin, Mapping):
        # JSON has no keys but texts.
        rest = arguments[1:] or (Any,)
        return isinstance(value, Mapping) and all(
            _matches(v, rest[0], sizes) for v in value.values()
        )
    if issubclass(origin, Sequence):
        rest = arguments or (Any,)
        is_sequence = isinstance(value, list | tuple)
        return is_sequence and all(_matches(v, rest[0], sizes) for v in value)
    return True


def _matches_array(value: Any, annotation: Any, sizes: dict[str, int]) -> bool:
    """Whether a tensor has the dtype and the axes of a jaxtyping annotation."""
    if not isinstance(value, Tensor):
        return False
    dtypes = annotation.dtypes
    if isinstance(dtypes, tuple | list):
        names = [str(one).rstrip("_") for one in dtypes]
        if str(value.dtype).removeprefix("torch.") not in names:
            return False
    axes = annotation.dim_str.split()
    several = [i for i, axis in enumerate(axes) if axis.startswith("*") or axis == "..."]
    shape = list(value.shape)
    if several:
        behind = len(axes) - several[0] - 1
        if len(shape) < len(axes) - 1:
            return False
        pairs = list(zip(axes[: several[0]], shape, strict=False))
        pairs += list(zip(axes[several[0] + 1 :], shape[len(shape) - behind :], strict=True))
    elif len(shape) != len(axes):
        return False
    else:
        pairs = list(zip(axes, shape, strict=True))
    return all(_matches_axis(axis, size, sizes) for axis, size in pairs)


def _matches_axis(axis: str, size: int, sizes: dict[str, int]) -> bool:
    if axis.isdigit():
        return size == int(axis)
    if not axis.isidentifier() or axis == "_":
        return True
    return sizes.setdefault(axis, size) == size
