"""Silhouette of labelled points, with a permutation test."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from ..stats import effect_size, permutation_p_value
from . import checks

if TYPE_CHECKING:
    import pandas

# Numbers in one block of sums of distances; bounds memory to some hundred MB.
_BLOCK_NUMBERS = 2**24


@dataclass(frozen=True)
class SilhouetteTest(Result):
    """Mean silhouette of labelled points, with a null of permuted labels.

    Attributes:
        silhouette: mean silhouette, from -1 to 1; near 0 for labels unrelated to the points.
        null: mean silhouettes with permuted labels.
        metric: name of the distance.
        seed: seed of the permutations.
    """

    former_names: ClassVar = ("tvlens.Separation",)

    silhouette: float
    null: Float[Tensor, " draw"]
    metric: str
    seed: int

    @property
    def p_value(self) -> float:
        """One-sided p-value that permuted labels have at least this silhouette."""
        # A permutation that changes nothing is a tie, whatever the rounding.
        return permutation_p_value(self.null, self.silhouette, tolerance=1e-12)

    @property
    def effect_size(self) -> float:
        """Standard deviations of the null between its mean and the silhouette."""
        return effect_size(self.null, self.silhouette)

    def __repr__(self) -> str:
        return (
            f"SilhouetteTest(silhouette {self.silhouette:.3f}, by chance "
            f"{float(self.null.mean()):.3f}, p {self.p_value:.3g})"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row: silhouette, null, effect size, p-value."""
        import pandas as pd

        row = {"silhouette": self.silhouette, "null_mean": float(self.null.mean())}
        row |= {"null_std": float(self.null.std()), "effect_size": self.effect_size}
        return pd.DataFrame([row | {"p_value": self.p_value}])


def silhouette_test(
    points: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    metric: str = "euclidean",
    null: int = 1000,
    seed: int = 0,
) -> SilhouetteTest:
    """Compute the mean silhouette of labelled points and test it against permuted labels.

    To show that points cluster by task and not by modality, compare the silhouettes of both
    labels. Cost: n^2 d for the distances and n^2 times the number of labels per permutation.

    Args:
        labels: one per point, from 0.
        metric: a distance of scikit-learn, such as "euclidean" or "cosine".
        null: number of permutations.

    Raises:
        TvlensError: there is not one label per point, there are fewer than two labels or as many
            as points, the metric is unknown, or all permutations give the same silhouette.

    Source: Rousseeuw 1987.
    """
    from sklearn.metrics import pairwise_distances

    states = checks.as_float64("points", points).cpu().numpy()
    labels = checks.as_labels("labels", labels, points.shape[:1])
    names, clusters = labels.unique(return_inverse=True)
    if not 2 <= len(names) < len(points):
        raise TvlensError(
            f"{len(names)} different labels for {len(points)} points: a silhouette needs at least "
            "two labels, one of them more than once"
        )
    if null < 2:
        raise TvlensError(f"null is {null}: draw at least two permutations")
    try:
        distances = pairwise_distances(states, metric=metric)
    except ValueError as error:
        raise TvlensError(f"metric {metric!r}: {error}") from error
    rng = np.random.default_rng(seed)
    permuted = rng.permuted(np.tile(clusters.numpy(), (null, 1)), axis=1)
    labelings = np.concatenate([clusters.numpy()[None], permuted])
    silhouettes = mean_silhouettes(distances, labelings)
    null_values = silhouettes[1:]
    if null_values.std() == 0:
        raise TvlensError("all permutations of the labels have the same silhouette")
    return SilhouetteTest(float(silhouettes[0]), torch.from_numpy(null_values), metric, seed)


def mean_silhouettes(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute mean silhouettes [draw] of many labelings [draw n], given distances [n n].

    Every labeling has the same label counts, with labels 0 to k - 1.
    """
    n, k = len(distances), int(labels.max()) + 1
    block = max(1, _BLOCK_NUMBERS // (n * k))
    parts = [labels[i : i + block] for i in range(0, len(labels), block)]
    return np.concatenate([_silhouettes_of_block(distances, part, k) for part in parts])


def _silhouettes_of_block(distances: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    member = labels[:, None] == np.arange(k)[:, None]  # [draw k n]
    sizes = member.sum(-1)
    sums = (member.reshape(-1, len(distances)).astype(float) @ distances).reshape(member.shape)
    cluster_size = np.take_along_axis(sizes, labels, 1)
    # The distance of a point to itself is 0 and not counted.
    inner = np.take_along_axis(sums, labels[:, None], 1)[:, 0] / np.maximum(cluster_size - 1, 1)
    outer = np.where(member, np.inf, sums / sizes[:, :, None]).min(1)
    largest = np.maximum(inner, outer)
    # A point that is alone in its cluster, or equal to all others, has silhouette 0.
    values = np.where(largest > 0, (outer - inner) / np.where(largest > 0, largest, 1), 0)
    silhouettes: np.ndarray = np.where(cluster_size > 1, values, 0).mean(1)
    return silhouettes
