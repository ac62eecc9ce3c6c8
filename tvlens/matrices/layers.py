"""`TaskMatrices`: the task matrices of a model's layers."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import TvlensError
from ..field_checks import check_value
from ..saved import construct, parted, read_tensors, reading, write_tensors
from ..sites import Site
from .matrix import TaskMatrix

if TYPE_CHECKING:
    import pandas

Place = int | tuple[int, int]


@dataclass(frozen=True)
class TaskMatrices(Mapping):
    """One matrix per base layer, or per pair of a base layer and a tuned layer.

    `matrices[7]` is that of base layer 7 (to the last tuned layer at hand), `matrices[7, 3]` that
    to tuned layer 3.

    Attributes:
        matrices: each with its `layer` and `target`.
    """

    matrices: tuple[TaskMatrix, ...]

    def __repr__(self) -> str:
        return f"TaskMatrices(layers {list(self)}, targets {self.targets})"

    def _repr_html_(self) -> str:
        from .show import layers_figure

        return layers_figure(self)._repr_html_()

    def __getitem__(self, place: Place) -> TaskMatrix:
        layer, target = place if isinstance(place, tuple) else (place, self.targets[-1])
        for matrix in self.matrices:
            if (matrix.layer, matrix.target) == (layer, target):
                return matrix
        raise KeyError(place)

    def __iter__(self) -> Iterator[int]:
        return iter(dict.fromkeys(matrix.layer for matrix in self.matrices))

    def __len__(self) -> int:
        return len(set(self))

    @property
    def targets(self) -> list[int]:
        """Tuned layers that the matrices predict."""
        return sorted({matrix.target for matrix in self.matrices})

    @contextlib.contextmanager
    def attach(self, model: Any, *, layer: int, other_model: bool = False) -> Iterator[None]:
        """Leave the model after this layer through its matrix; see `TaskMatrix.attach`.

        Raises:
            TvlensError: no matrix of this layer, or it does not fit the model.
        """
        found = Site("resid_post", layer).on(model).layer
        if found not in self:
            raise TvlensError(f"no matrix of layer {found}; there are layers {list(self)}")
        with self[found].attach(model, other_model=other_model):
            yield

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per matrix: layers, penalty, rank, number of pairs, predicted R^2."""
        import pandas as pd

        rows = [
            {
                "layer": m.layer,
                "target": m.target,
                "penalty": m.ridge,
                "rank": m.rank,
                "n": m.meta.get("count"),
                "predicted_r2": m.meta.get("predicted_r2"),
            }
            for m in self.matrices
        ]
        return pd.DataFrame(rows)

    def save(self, path: str | os.PathLike) -> None:
        """Write all of them to one safetensors file. Atomic."""
        tensors: dict[str, Tensor] = {}
        plain = []
        for i, matrix in enumerate(self.matrices):
            own, rest = parted(matrix)
            # Copies: several matrices may share a tensor, which the file format does not allow.
            tensors |= {f"{i}.{name}": t.clone() for name, t in own.items()}
            plain.append(rest)
        write_tensors(path, tensors, kind="tvlens.TaskMatrices", about={"matrices": plain})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TaskMatrices":
        """Read what `save` wrote.

        Raises:
            TvlensError: no such file, it is damaged, or it holds no task matrices.
        """
        tensors, plain = read_tensors(path, kind="tvlens.TaskMatrices", what="task matrices")
        with reading(path, "task matrices"):
            # A list alone is what earlier versions wrote.
            fields = plain["matrices"] if isinstance(plain, dict) else plain
            check_value("matrices", fields, list[dict], {})
            own: list[dict[str, Tensor]] = [{} for _ in fields]
            for name, tensor in tensors.items():
                place, attribute = name.split(".")
                own[int(place)][attribute] = tensor
            parts = zip(own, fields, strict=True)
            return cls(tuple(construct(TaskMatrix, some, rest) for some, rest in parts))
