"""`Result`: the base of every result, with saving, loading and display."""

import dataclasses
import functools
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from .errors import TvlensError
from .field_checks import check_fields, field_types
from .saved import read_tensors, reading, tvlens_version, write_tensors
from .viz import Figure, Figures

if TYPE_CHECKING:
    import pandas

FigureFunction = TypeVar("FigureFunction", bound=Callable[..., Figure | Figures])
R = TypeVar("R", bound="Result")
T = TypeVar("T")

_VERSION = "tvlens_version"


class Result:
    """Base of results, which are frozen dataclasses of tensors and plain values.

    A subclass overrides `to_dataframe`; its figure is the function that `register_figure` names.

    Attributes:
        former_names: keys under which earlier versions saved this type, such as "tvlens.patch".
    """

    former_names: ClassVar[tuple[str, ...]] = ()

    def figure(self, *args: Any, **options: Any) -> Figure | Figures:
        """The figure that a notebook shows.

        Args:
            args, options: those of the registered function.

        Raises:
            TvlensError: this type has no figure.
        """
        return _draw(self, *args, **options)

    def _repr_html_(self) -> str | None:
        if _draw.dispatch(type(self)) is _draw.dispatch(object):
            return None  # a notebook then shows the text
        return self.figure()._repr_html_()

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the result as a table.

        Raises:
            TvlensError: this type has no table.
        """
        raise TvlensError(f"a {type(self).__name__} has no table")

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file atomically; fields other than tensors are in its header."""
        tensors, plain = split_tensors(self)
        plain |= {_VERSION: tvlens_version()}
        write_tensors(path, tensors, kind=f"tvlens.{type(self).__name__}", metadata=plain)

    @classmethod
    def load(cls: type[R], path: str | os.PathLike) -> R:
        """Load a result that `save` wrote.

        Raises:
            TvlensError: no such file, it is damaged, or it holds something else.
        """
        name = cls.__name__
        kinds = (f"tvlens.{name}", *cls.former_names)
        tensors, plain = read_tensors(path, kind=kinds, what=name)
        with reading(path, name):
            if not isinstance(plain, dict):
                raise TvlensError(f"its header is a {type(plain).__name__}, not a JSON object")
            version = plain.pop(_VERSION, None)
            try:
                return construct(cls, tensors, plain)
            except TvlensError as error:
                raise TvlensError(f"{error}; tvlens {version or '0.1'} wrote it") from error


def register_figure(result_type: type) -> Callable[[FigureFunction], FigureFunction]:
    """Decorate the function that draws a type of result, which `result.figure` calls.

    Example:
        >>> @register_figure(VectorReport)  # doctest: +SKIP
        ... def report_figure(report: VectorReport) -> viz.Figures: ...
    """

    def register(function: FigureFunction) -> FigureFunction:
        _draw.register(result_type, function)
        return function

    return register


@functools.singledispatch
def _draw(result: object, *args: Any, **options: Any) -> Figure | Figures:
    raise TvlensError(f"a {type(result).__name__} has no figure")


def split_tensors(result: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a dataclass into tensors, by dotted name, and plain values.

    Dataclasses, mappings and sequences inside it are split too.
    """
    tensors: dict[str, Tensor] = {}
    plain = _take_tensors(result, "", tensors)
    return tensors, plain


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value as dictionaries, lists and plain values; its tensors go into `tensors`."""
    if isinstance(value, Tensor):
        storages = {one.untyped_storage().data_ptr() for one in tensors.values()}
        # The file format does not allow tensors that share memory.
        is_shared = value.untyped_storage().data_ptr() in storages
        tensors[name] = value.clone() if is_shared else value
        return None
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    prefix = f"{name}." if name else ""
    if isinstance(value, Mapping):
        plain = {k: _take_tensors(v, f"{prefix}{k}", tensors) for k, v in value.items()}
        return {k: v for k, v in plain.items() if not isinstance(value[k], Tensor)}
    if isinstance(value, list | tuple):
        return [_take_tensors(v, f"{prefix}{i}", tensors) for i, v in enumerate(value)]
    return value


def construct(cls: type[T], tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> T:
    """Construct a dataclass from the output of `split_tensors`, after a round trip by JSON.

    Raises:
        TvlensError: a field is missing, unknown, of another type or of another shape.
    """
    values = dict(plain)
    for name, tensor in tensors.items():
        *parents, last = name.split(".")
        node: Any = values
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        node[int(last) if isinstance(node, list) else last] = tensor
    return typing.cast(T, _restore(cls, values))


def _restore(annotation: Any, value: Any) -> Any:
    """Convert a JSON value to the type of an annotation: dataclasses, and tuples for lists."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        classes = [one for one in arguments if dataclasses.is_dataclass(one)]
        return _restore(classes[0] if classes and isinstance(value, dict) else Any, value)
    if dataclasses.is_dataclass(annotation) and isinstance(value, dict):
        annotations = field_types(annotation)
        fields = {name: _restore(annotations.get(name, Any), v) for name, v in value.items()}
        check_fields(annotation, fields)
        return annotation(**fields)
    if origin is tuple and isinstance(value, list) and arguments:
        inner = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_restore(one, v) for one, v in zip(inner, value, strict=True))
    if isinstance(value, dict) and isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _restore(arguments[-1], v) for key, v in value.items()}
    is_list = isinstance(value, list) and annotation is not list and origin is not list
    return tuple(value) if is_list else value
