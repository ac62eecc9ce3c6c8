"""`Saved`: how the results of this room are written to a file and read back."""

import json
import os
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

from ..errors import TvlensError
from ..files import replacing

Result = TypeVar("Result", bound="Saved")


class Saved:
    """Gives a frozen dataclass `save` and `load`: tensors as safetensors, the rest as JSON."""

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with all that is no tensor in its header. Atomic."""
        from safetensors.torch import save_file

        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: v.contiguous() for k, v in values.items() if isinstance(v, Tensor)}
        plain = {k: v for k, v in values.items() if k not in tensors}
        header = {f"tvlens.{type(self).__name__}": json.dumps(plain)}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    @classmethod
    def load(cls: type[Result], path: str | os.PathLike) -> Result:
        """Read what `save` wrote.

        Raises:
            TvlensError: no such file, or it holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[f"tvlens.{cls.__name__}"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TvlensError(f"{path} holds no {cls.__name__} ({error})") from error
        # JSON has no tuples; no result has a list.
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in header.items()
        }
        return cls(**tensors, **plain)
