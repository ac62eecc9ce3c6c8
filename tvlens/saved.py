"""Results in files: tensors as safetensors, everything else as JSON in the header."""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

from .errors import TvlensError
from .files import replacing

Result = TypeVar("Result", bound="Saved")


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], *, kind: str = "", about: Any = None
) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        kind: the header's key, which tells what the file holds; no header if empty.
        about: what stands there, as JSON.
    """
    from safetensors.torch import save_file

    header = {kind: json.dumps(about)} if kind else None
    with replacing(path) as temporary:
        save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, metadata=header)


def read_tensors(
    path: str | os.PathLike, *, kind: str, what: str, needs: Collection[str] = ()
) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file that `write_tensors` wrote, and what its header says.

    Args:
        what: what the file should hold, in words.
        needs: names that must be among the tensors or in the header.

    Raises:
        TvlensError: no such file, or it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[kind])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name in needs:
            if name not in tensors and name not in about:
                raise KeyError(name)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TvlensError(f"{path} holds no {what} ({error})") from error
    return tensors, about


class Saved:
    """Gives a frozen dataclass `save` and `load`: tensors as safetensors, the rest as JSON."""

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with all that is no tensor in its header. Atomic."""
        tensors, plain = parted(self)
        write_tensors(path, tensors, kind=f"tvlens.{type(self).__name__}", about=plain)

    @classmethod
    def load(cls: type[Result], path: str | os.PathLike) -> Result:
        """Read what `save` wrote.

        Raises:
            TvlensError: no such file, or it holds something else.
        """
        tensors, header = read_tensors(path, kind=f"tvlens.{cls.__name__}", what=cls.__name__)
        # JSON has no tuples; no result has a list.
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in header.items()
        }
        try:
            return cls(**tensors, **plain)
        except TypeError as error:
            raise TvlensError(
                f"{path} holds a {cls.__name__} of another version ({error})"
            ) from error


def parted(result: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The fields of a dataclass that are tensors, and those that are not."""
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
    return tensors, {k: v for k, v in values.items() if k not in tensors}
