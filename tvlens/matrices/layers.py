"""`TaskMatrices`: the task matrices of a model's layers."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ..errors import TvlensError
from ..files import replacing
from ..sites import Site
from .matrix import TaskMatrix

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

    def to_dataframe(self):
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
        from safetensors.torch import save_file

        tensors, plain = {}, []
        for i, matrix in enumerate(self.matrices):
            values = {f.name: getattr(matrix, f.name) for f in fields(matrix)}
            own = {k: v for k, v in values.items() if isinstance(v, Tensor)}
            # Copies: several matrices may share a tensor, which the file format does not allow.
            tensors |= {f"{i}.{name}": t.clone().contiguous() for name, t in own.items()}
            plain.append({k: v for k, v in values.items() if k not in own})
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"tvlens.TaskMatrices": json.dumps(plain)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TaskMatrices":
        """Read what `save` wrote.

        Raises:
            TvlensError: no such file, or it holds no task matrices.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                plain = json.loads((file.metadata() or {})["tvlens.TaskMatrices"])
                for name in file.keys():  # noqa: SIM118
                    place, attribute = name.split(".")
                    plain[int(place)][attribute] = file.get_tensor(name)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TvlensError(f"{path} holds no task matrices ({error})") from error
        return cls(tuple(TaskMatrix(**one) for one in plain))
