"""The shape of all vectors together: do they lie by task or by modality?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...geometry import Subspace, cosine_table, silhouette_test, simplex_weights
from ...geometry.orthogonality import Orthogonality
from ...geometry.silhouette import SilhouetteTest
from ...vectors import TaskVector
from .conditions import MODALITIES


@dataclass(frozen=True)
class Shape:
    """Vectors of single sets of examples, at one layer.

    Attributes:
        layer: at which they are compared.
        tasks, modalities: of every vector.
        points: the vectors.
        by_task, by_modality: how well either label separates them (cosine distance).
        means: names of the mean vectors of every task and source, and their cosines.
        cosines: between them as they are.
        centred: the same, less the mean of each source over tasks.
        overlap: angles between what distinguishes tasks in words and in pictures; None for fewer
            than three tasks, whose differences span too little.
        own: convex weights of every task's picture vector on the tasks' word vectors.
    """

    layer: int
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    points: Float[Tensor, "vector d_model"]
    by_task: SilhouetteTest
    by_modality: SilhouetteTest
    means: tuple[str, ...]
    cosines: Float[Tensor, "mean mean"]
    centred: Float[Tensor, "mean mean"]
    overlap: Orthogonality | None
    own: Float[Tensor, "task task"]

    @property
    def paired(self) -> Float[Tensor, " task"]:
        """Cosine of each task's word and picture vectors, both centred."""
        k = len(self.own)
        return self.centred[:k, k : 2 * k].diagonal()

    def to_json(self) -> dict[str, Any]:
        """All numbers but the vectors themselves, as plain data."""
        angles = self.overlap and self.overlap.to_dataframe().to_dict("records")
        return {
            "layer": self.layer,
            "by task": self.by_task.to_dataframe().to_dict("records")[0],
            "by modality": self.by_modality.to_dataframe().to_dict("records")[0],
            "cosines": {"of": self.means, "values": self.cosines.tolist()},
            "centred cosines": self.centred.tolist(),
            "overlap": angles,
            "weights of pictures on words": self.own.tolist(),
        }


def shape(
    vectors: Mapping[str, Mapping[str, TaskVector]], layer: int, *, sets: int, seed: int = 0
) -> Shape | None:
    """Compare the vectors of several tasks; None for one task, which has nothing beside it."""
    names = list(vectors)
    if len(names) < 2:
        return None
    rows = [(t, m, i) for t in names for m in MODALITIES for i in range(sets)]
    points = torch.stack([vectors[t][f"{m} {i}"].values[layer] for t, m, i in rows])
    tasks, modalities = ([row[k] for row in rows] for k in (0, 1))
    sources = [s for s in ("text", "image", "instruction") if all(s in vectors[t] for t in names)]
    by_source = {s: torch.stack([vectors[t][s].values[layer] for t in names]) for s in sources}
    text, image = (_centred(by_source[m]) for m in ("text", "image"))
    overlap = None
    if len(names) > 2:
        spans = (Subspace.span(part, tolerance=1e-3) for part in (text, image))
        overlap = next(spans).orthogonality(next(spans), seed=seed)
    options = {"metric": "cosine", "seed": seed}
    return Shape(
        layer,
        tuple(tasks),
        tuple(modalities),
        points,
        silhouette_test(points, _numbered(tasks), **options),
        silhouette_test(points, _numbered(modalities), **options),
        tuple(f"{name}, {source}" for source in sources for name in names),
        cosine_table(torch.cat(list(by_source.values()))),
        cosine_table(torch.cat([_centred(part) for part in by_source.values()])),
        overlap,
        simplex_weights(image, text),
    )


def _centred(points: Float[Tensor, "task d_model"]) -> Float[Tensor, "task d_model"]:
    return points - points.mean(0)


def _numbered(names: Sequence[str]) -> Tensor:
    known = list(dict.fromkeys(names))
    return torch.tensor([known.index(name) for name in names])
