"""`agreement`: correlation and total variation between distributions over tasks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...results import Result
from ...stats import bootstrap_counts, percentiles
from ..distributions import normalize_rows

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Agreement(Result):
    """Agreement of weights with a reference, by layer if there are several.

    Attributes:
        correlation: Pearson correlation over prompts and tasks; 0 for constant weights.
        correlation_interval: 95% bootstrap interval (low, high).
        distance: mean total variation, in [0, 1].
        distance_interval: 95% bootstrap interval (low, high).
        null_correlation, null_distance: the same with permuted prompts of the reference.
        uniform_distance: total variation between uniform weights and the reference.
    """

    correlation: Float[Tensor, "*layer"]
    correlation_interval: Float[Tensor, "*layer 2"]
    distance: Float[Tensor, "*layer"]
    distance_interval: Float[Tensor, "*layer 2"]
    null_correlation: Float[Tensor, "*layer draw"]
    null_distance: Float[Tensor, "*layer draw"]
    uniform_distance: float

    def at_layer(self, layer: int) -> "Agreement":
        """Return the agreement at one layer."""
        tensors = {k: v[layer] for k, v in vars(self).items() if isinstance(v, Tensor)}
        return Agreement(**tensors, uniform_distance=self.uniform_distance)

    def __repr__(self) -> str:
        if self.correlation.ndim:
            return f"Agreement at {len(self.correlation)} layers"
        return f"Agreement(correlation {self.correlation:.3f}, distance {self.distance:.3f})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per layer: both measures with their intervals and nulls."""
        import pandas as pd

        columns: dict[str, object] = {}
        if self.correlation.ndim:
            columns["layer"] = range(len(self.correlation))
        for name in ("correlation", "distance"):
            ends = getattr(self, f"{name}_interval").reshape(-1, 2)
            null = getattr(self, f"null_{name}").reshape(len(ends), -1)
            columns[name] = getattr(self, name).reshape(-1).tolist()
            columns |= {f"{name}_low": ends[:, 0].tolist(), f"{name}_high": ends[:, 1].tolist()}
            columns[f"null_{name}"] = null.mean(-1).tolist()
        return pd.DataFrame(columns | {"uniform_distance": self.uniform_distance})


def agreement(
    weights: Float[Tensor, "*layer prompt task"],
    reference: Float[Tensor, "row k"],
    *,
    clusters: Int[Tensor, " row"] | None = None,
    resamples: int = 1000,
    null: int = 200,
    seed: int = 0,
) -> Agreement:
    """Compare distributions over tasks with those of a reference, prompt by prompt.

    Args:
        weights: distributions, one row per prompt.
        reference: distributions, such as a posterior.
        clusters: label of each prompt; prompts with equal labels, such as a shared query, are
            resampled together. By default every prompt is its own cluster.
        resamples: number of bootstrap samples.
        null: number of permutations of the reference's prompts.

    Raises:
        TvlensError: a row is not a distribution, the shapes differ, or there are fewer than two
            clusters.
    """
    if weights.shape[-2:] != reference.shape:
        raise TvlensError(
            f"weights of {list(weights.shape[-2:])} and a reference of {list(reference.shape)}"
        )
    x = normalize_rows(weights.double(), name="weights").cpu()
    y = normalize_rows(reference.double(), name="reference").cpu()
    sums = _sums(x, y)
    counts = cluster_resamples(clusters, len(y), resamples=resamples, seed=seed).to(sums)
    boot = counts @ sums  # [*layer draw sum]
    permuted = _permuted(x, y, null, seed)
    return Agreement(
        _correlation(sums.sum(-2)),
        percentiles(_correlation(boot)).movedim(0, -1),
        _distance(sums.sum(-2)),
        percentiles(_distance(boot)).movedim(0, -1),
        _correlation(permuted),
        _distance(permuted),
        float((y - 1 / y.shape[-1]).abs().sum(-1).mean() / 2),
    )


def correlation(
    weights: Float[Tensor, "*layer prompt task"], reference: Float[Tensor, "row k"]
) -> Float[Tensor, "*layer"]:
    """Compute the correlation of `agreement` only, without validation of the inputs."""
    return _correlation(_sums(weights.double(), reference.double()).sum(-2))


def cluster_resamples(
    clusters: Int[Tensor, " prompt"] | None, prompts: int, *, resamples: int, seed: int
) -> Float[Tensor, "draw prompt"]:
    """Count how often each prompt occurs in every bootstrap sample of clusters."""
    if clusters is None:
        clusters = torch.arange(prompts)
    names, cluster = clusters.unique(return_inverse=True)
    if len(names) < 2:
        raise TvlensError("intervals need at least two clusters of prompts")
    counts = bootstrap_counts(len(names), resamples, seed=seed)
    return torch.from_numpy(counts)[:, cluster]


def _sums(x: Float[Tensor, "*layer prompt task"], y: Tensor) -> Float[Tensor, "*layer prompt 5"]:
    """Compute each prompt's squares, product, total variation, and count."""
    x, y = torch.broadcast_tensors(x, y)
    # Rows sum to 1, so the mean over prompts and tasks is 1 / K in every sample.
    a, b = x - 1 / x.shape[-1], y - 1 / y.shape[-1]
    parts = [a * a, b * b, a * b, (x - y).abs() / 2]
    return torch.stack([*(part.sum(-1) for part in parts), torch.ones_like(x[..., 0])], -1)


def _correlation(sums: Float[Tensor, "*layer 5"]) -> Float[Tensor, "*layer"]:
    xx, yy, xy, *_ = sums.unbind(-1)
    size = (xx * yy).sqrt()
    # Rounding leaves a small variance in constant weights.
    varies = (xx > 1e-12 * sums[..., 4]) & (yy > 1e-12 * sums[..., 4])
    return torch.where(varies, xy / size.clamp_min(1e-300), 0)


def _distance(sums: Float[Tensor, "*layer 5"]) -> Float[Tensor, "*layer"]:
    return sums[..., 3] / sums[..., 4]


def _permuted(
    x: Float[Tensor, "*layer prompt task"], y: Tensor, null: int, seed: int
) -> Float[Tensor, "*layer draw 5"]:
    rng = np.random.default_rng(seed)
    orders = [torch.from_numpy(rng.permutation(len(y))) for _ in range(null)]
    return torch.stack([_sums(x, y[order]).sum(-2) for order in orders], -2)
