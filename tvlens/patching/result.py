"""`PatchResult`: the effect of each patch on a metric, with its uncertainty."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError, unknown
from ..results import Result
from ..stats import (
    bootstrap_counts,
    check_level,
    mean_interval,
    percentiles,
    sign_flip_p_value,
)

_INTERVALS = ("t", "bootstrap")

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class PatchResult(Result):
    """A metric under every patch of a sweep.

    Attributes:
        values: the metric with each patch, per example.
        axes: names of the swept axes, "metric" first where several metrics were given.
        coordinates: axis -> names of its entries.
        baseline: the metric without a patch.
        clean: the metric of the clean run, if there is one.
        site: the patched component.
        tokens: tokens of the first corrupted prompt, for figures.
        source_tokens: tokens of the first clean prompt; those of `tokens` if there is none.
        attention: patterns of the heads with the largest effect on that prompt,
            `[destination, source]` by "L<layer>H<head>"; heads only.
        settings: settings of the computation.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> clean, corrupted = ["Q: cat A:", "Q: dog A:"], ["Q: red A:", "Q: bus A:"]
        >>> metric = tv.logit_difference("a", "b")
        >>> options = dict(site="resid_post", positions=-1, metric=metric)
        >>> result = tv.patch(model, clean, corrupted, **options)
        >>> list(result.to_dataframe().columns)
        ['layer', 'effect', 'low', 'high', 'p_value']
    """

    former_names: ClassVar = ("tvlens.patch",)

    values: Float[Tensor, "*axes batch"]
    axes: tuple[str, ...]
    coordinates: dict[str, list]
    baseline: Float[Tensor, "*metric batch"]
    clean: Float[Tensor, "*metric batch"] | None
    site: str
    tokens: list[str] = field(default_factory=list)
    source_tokens: list[str] = field(default_factory=list)
    attention: dict[str, Float[Tensor, "pos pos"]] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        shape = ", ".join(f"{a} {n}" for a, n in zip(self.axes, self.values.shape, strict=False))
        return f"PatchResult({self.site}: {shape or 'one patch'}, batch {self.values.shape[-1]})"

    def __getitem__(self, metric: str) -> "PatchResult":
        """Select one of several metrics."""
        names = self.coordinates.get("metric", [])
        if metric not in names:
            choices = f"choose from {', '.join(names)}" if names else "the result has only one"
            raise TvlensError(f"no metric {metric!r}: {choices}")
        i = names.index(metric)
        rest = {k: v for k, v in self.coordinates.items() if k != "metric"}
        clean = None if self.clean is None else self.clean[i]
        fields = vars(self) | dict(values=self.values[i], baseline=self.baseline[i], clean=clean)
        return PatchResult(**fields | dict(axes=self.axes[1:], coordinates=rest))

    @property
    def differences(self) -> Float[Tensor, "*axes batch"]:
        """Change of the metric per example."""
        return self.values - self._insert_axes(self.baseline)

    @property
    def effect(self) -> Float[Tensor, "*axes"]:
        """Mean change of the metric over examples."""
        return self.differences.mean(-1)

    @property
    def normalised(self) -> Float[Tensor, "*axes"]:
        """Effect as a share of the difference between clean and corrupted metric.

        Raises:
            TvlensError: no clean run, or clean and corrupted runs give the same metric.
        """
        if self.clean is None:
            raise TvlensError("the effect cannot be normalised without a clean run")
        gap = (self.clean - self.baseline).mean(-1)
        if bool((gap.abs() < 1e-8).any()):
            raise TvlensError("clean and corrupted prompts give the same metric: nothing to share")
        return self.effect / gap.reshape((*gap.shape, *[1] * (self.effect.ndim - gap.ndim)))

    @property
    def interval(self) -> Float[Tensor, "*axes 2"]:
        """95% t interval of the effect over examples; both ends are NaN for a single example."""
        return self.confidence_interval()

    def confidence_interval(
        self,
        *,
        level: float = 0.95,
        method: Literal["t", "bootstrap"] = "t",
        resamples: int = 2000,
        seed: int = 0,
    ) -> Float[Tensor, "*axes 2"]:
        """Compute an interval of the effect over examples; NaN for a single example.

        A 95% t interval covers the mean of normal effects .95 of the time at any number of
        examples, and that of exponential ones .88, .90 and .92 of the time at 5, 10 and 20; the
        percentile bootstrap covers .84, .90 and .93 for normal effects and .79, .85 and .90 for
        exponential ones.

        Args:
            level: confidence level, between 0 and 1.
            method: "t" (Student's t) or "bootstrap" (percentiles of resampled means).
            resamples: number of bootstrap samples.
            seed: seed of the bootstrap.
        """
        if method not in _INTERVALS:
            raise unknown("interval method", method, _INTERVALS)
        check_level(level)
        size = self.values.shape[-1]
        if size < 2 or method == "t":
            means = mean_interval(self.differences.double().cpu().numpy(), level=level)
            return torch.from_numpy(means).to(self.values)
        weights = torch.from_numpy(bootstrap_counts(size, resamples, seed=seed) / size)
        means = self.differences.double() @ weights.T
        ends: Tensor = percentiles(means, tail=(1 - level) / 2)
        return ends.movedim(0, -1).to(self.values.dtype)

    def p_value(self, *, permutations: int = 10_000, seed: int = 0) -> Float[Tensor, "*axes"]:
        """Two-sided p-value of no effect by sign flips; exact up to 13 examples.

        The smallest value possible with n examples is 2 / 2^n.
        """
        differences = self.differences.double().numpy()
        p_values = sign_flip_p_value(differences, permutations=permutations, seed=seed)
        return torch.as_tensor(p_values).to(self.values.dtype)

    def rank_correlation(self, other: "PatchResult") -> float:
        """Compute the Spearman correlation with the effects of another result of the same sweep.

        For example, exact values and gradient estimates.
        """
        from scipy.stats import spearmanr

        if (self.axes, self.coordinates) != (other.axes, other.coordinates):
            raise TvlensError(f"{self} and {other} are not of one sweep")
        return float(spearmanr(self.effect.flatten(), other.effect.flatten()).statistic)

    def top(self, k: int = 10) -> "pandas.DataFrame":
        """List the k patches of largest absolute effect."""
        frame = self.to_dataframe()
        return frame.reindex(frame.effect.abs().sort_values(ascending=False).index).head(k)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per patch: coordinates, effect, interval, p-value."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [self.coordinates[a] for a in self.axes] or [[0]], names=self.axes or ["patch"]
        )
        ends = self.interval.reshape(-1, 2)
        columns = {"effect": self.effect, "p_value": self.p_value()}
        frame = pd.DataFrame({k: v.reshape(-1).tolist() for k, v in columns.items()}, index=index)
        frame.insert(1, "low", ends[:, 0].tolist())
        frame.insert(2, "high", ends[:, 1].tolist())
        return frame.reset_index()

    def _insert_axes(self, per_example: Tensor) -> Tensor:
        """Insert the swept axes, of size 1, into [*metric, batch]."""
        lead = per_example.shape[:-1]
        gap = [1] * (self.values.ndim - per_example.ndim)
        return per_example.reshape(*lead, *gap, per_example.shape[-1])
