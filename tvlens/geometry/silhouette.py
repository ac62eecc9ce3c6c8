"""Do points cluster by a label? Silhouettes against permuted labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from . import checks

if TYPE_CHECKING:
    import pandas

# Numbers of one block of the distances' sums; bounds memory at some hundred MB.
_TOGETHER = 2**24


@dataclass(frozen=True)
class Separation(Result):
    """How well a label separates points, and how well it would by chance.

    Attributes:
        silhouette: mean silhouette, from -1 to 1; 0 for labels that say nothing.
        null: the same with permuted labels.
        metric: the distance.
        seed: of the permutations.
    """

    silhouette: float
    null: Float[Tensor, " draw"]
    metric: str
    seed: int

    @property
    def p_value(self) -> float:
        """How often permuted labels separate at least as well, with the +1 correction."""
        room = 1e-12  # a permutation that changes nothing is a tie, whatever the rounding
        return (1 + int((self.null >= self.silhouette - room).sum())) / (1 + len(self.null))

    @property
    def effect_size(self) -> float:
        """Standard deviations of the null between its mean and the silhouette."""
        return float((self.silhouette - self.null.mean()) / self.null.std())

    def __repr__(self) -> str:
        return (
            f"Separation(silhouette {self.silhouette:.3f}, by chance "
            f"{float(self.null.mean()):.3f}, p {self.p_value:.3g})"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row: silhouette, null, effect size, p-value."""
        import pandas as pd

        row = {"silhouette": self.silhouette, "null_mean": float(self.null.mean())}
        row |= {"null_std": float(self.null.std()), "effect_size": self.effect_size}
        return pd.DataFrame([row | {"p_value": self.p_value}])


def separation(
    points: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    metric: str = "euclidean",
    null: int = 1000,
    seed: int = 0,
) -> Separation:
    """Mean silhouette of labelled points, with a permutation test.

    To show that points cluster by task and not by modality, compare the separation by either
    label. Cost: n^2 d for the distances and n^2 times the number of labels per permutation.

    Args:
        labels: one per point, from 0.
        metric: a distance that scikit-learn knows, such as "euclidean" or "cosine".
        null: number of permutations.

    Raises:
        TvlensError: not one label per point, fewer than two labels, as many labels as points, an
            unknown metric, or points that no labels could separate.

    Source: Rousseeuw 1987.
    """
    from sklearn.metrics import pairwise_distances

    exact = checks.exact("points", points).cpu().numpy()
    groups = checks.labels("labels", labels, points.shape[:1])
    names, groups = groups.unique(return_inverse=True)
    if not 2 <= len(names) < len(points):
        raise TvlensError(
            f"{len(names)} different labels for {len(points)} points: a silhouette needs at least "
            "two, and some label twice"
        )
    if null < 2:
        raise TvlensError(f"null is {null}: draw at least two permutations")
    try:
        distances = pairwise_distances(exact, metric=metric)
    except ValueError as error:
        raise TvlensError(f"metric {metric!r}: {error}") from error
    rng = np.random.default_rng(seed)
    permuted = rng.permuted(np.tile(groups.numpy(), (null, 1)), axis=1)
    drawn = silhouettes(distances, np.concatenate([groups.numpy()[None], permuted]))
    if drawn[1:].std() == 0:
        raise TvlensError("every order of the labels separates these points equally well")
    return Separation(float(drawn[0]), torch.from_numpy(drawn[1:]), metric, seed)


def silhouettes(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean silhouette under many labelings [draw n] of points with the given distances [n n].

    Every labeling uses the same labels, 0 to k - 1, equally often.
    """
    n, k = len(distances), int(labels.max()) + 1
    block = max(1, _TOGETHER // (n * k))
    parts = [labels[i : i + block] for i in range(0, len(labels), block)]
    return np.concatenate([_block(distances, part, k) for part in parts])


def _block(distances: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    member = labels[:, None] == np.arange(k)[:, None]  # [draw k n]
    sizes = member.sum(-1)
    sums = (member.reshape(-1, len(distances)).astype(float) @ distances).reshape(member.shape)
    own = np.take_along_axis(sizes, labels, 1)
    # Distance to oneself is 0 and does not count.
    inner = np.take_along_axis(sums, labels[:, None], 1)[:, 0] / np.maximum(own - 1, 1)
    outer = np.where(member, np.inf, sums / sizes[:, :, None]).min(1)
    largest = np.maximum(inner, outer)
    # A point alone in its cluster, or on top of all others, has silhouette 0.
    values = np.where(largest > 0, (outer - inner) / np.where(largest > 0, largest, 1), 0)
    return np.where(own > 1, values, 0).mean(1)
