"""`prefix_dependence`: what a state holds of the prefix, beyond task and last token (`Dyck`)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...integers import require_at_least
from ...results import Result
from ...stats import bootstrap_counts, percentiles, share_interval
from ..dyck import Dyck
from ..ideal_states import ReferenceKind
from ..sequences import Sequences
from .states import StateSource, state_source

if TYPE_CHECKING:
    import pandas

TARGETS = ("progress", "height")
# Ridge of the covariance within classes, over its mean variance.
_SHRINKAGE = 1e-3


@dataclass(frozen=True)
class PrefixDependence(Result):
    """Variance of states within cells of equal task and last token, and what explains it.

    A state that is a function of task and last token has no variance within cells: `within_share`
    and `residual` are 0 and a probe is at chance.

    Attributes:
        within_share: share of variance within cells (P0), by position: value, low, high.
        prefix_share: share of variance that the progress along the path explains beyond the cells,
            on sequences other than those of the means, by position: value, low, high.
        residual: mean squared distance from the cell's mean at the last position over the total
            variance, by number of brackets passed; NaN where no sequence has passed as many.
        accuracy: of linear probes for progress (brackets passed) and height (open brackets) that
            read the state minus its cell's mean at the last position, on other sequences: value,
            low, high.
        null: accuracies with the targets permuted within cells.
        layer: the block whose output is read.
        settings: model, family, sizes and seed.
    """

    within_share: Float[Tensor, "position 3"]
    prefix_share: Float[Tensor, "position 3"]
    residual: Float[Tensor, " progress"]
    accuracy: Float[Tensor, "target 3"]
    null: Float[Tensor, "target draw"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        accuracies = ", ".join(
            f"{name} {float(value[0]):.3f}"
            for name, value in zip(TARGETS, self.accuracy, strict=True)
        )
        share = float(self.within_share[-1, 0])
        return f"PrefixDependence(layer {self.layer}: {share:.3f} within cells, {accuracies})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per position: share within cells and share that progress explains."""
        import pandas as pd

        columns: dict[str, np.ndarray] = {}
        for name in ("within_share", "prefix_share"):
            value, low, high = getattr(self, name).T.numpy()
            columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return pd.DataFrame(columns).rename_axis("position").reset_index()


def prefix_dependence(
    model: Any | ReferenceKind,
    family: Any,
    *,
    layer: int = -1,
    length: int | None = None,
    sequences: int = 1024,
    resamples: int = 1000,
    null: int = 20,
    seed: int = 0,
) -> PrefixDependence:
    """Measure how much a state depends on the prefix beyond task and last token.

    Given the task, the prefix enters through the number of brackets passed, which no bounded window
    of tokens determines.

    Args:
        model: a model, or the name of an ideal model, as for `reference_states`.
        layer: the block whose output is read.
        length: context of an ideal model, in tokens.
        sequences: sequences of major tasks whose cell means are computed, and as many others that
            are measured.
        resamples: number of bootstrap samples.
        null: number of permutations.
        seed: random seed of sequences, intervals and permutations.

    Raises:
        TvlensError: the family is not `Dyck`, the layer does not exist, or a number is too small.
    """
    if not isinstance(family, Dyck):
        raise TvlensError(f"prefixes are those of Dyck paths; {family} has none")
    require_at_least(2, sequences=sequences, resamples=resamples, null=null)
    source = state_source(model, family, layer=layer, length=length)
    options = dict(split="major")
    fit, test = (
        family.sample(sequences, source.length, seed=seed + i, **options) for i in (10, 11)
    )
    fit, test = (_Prefixes.read(source, data) for data in (fit, test))
    counts = bootstrap_counts(sequences, resamples, seed=seed)
    columns = [_squared_residuals(fit, test, position) for position in range(source.length)]
    return PrefixDependence(
        within_share=_estimate_share(columns, [0, 1, 0], counts),
        prefix_share=_estimate_share(columns, [0, 1, -1], counts),
        residual=_residual_by_progress(test, columns[-1], 2 * family.pairs),
        **_probe(fit, test, null, np.random.default_rng(seed)),
        layer=source.layer,
        settings={"model": source.name, "family": str(family), "sequences": sequences}
        | {"seed": seed},
    )


@dataclass(frozen=True)
class _Prefixes:
    """States of sequences at every position, with the groups to which they belong there."""

    states: Float[Tensor, "n position d"]
    cell: Int[Tensor, "n position"]
    prefix: Int[Tensor, "n position"]
    progress: Int[Tensor, "n position"]
    height: Int[Tensor, "n position"]

    @classmethod
    def read(cls, source: StateSource, data: Sequences) -> "_Prefixes":
        opened, closed = source.family.sufficient_statistics(data).long().unbind(-1)
        progress, task = opened + closed, data.task[:, None]
        cell = task * source.family.vocabulary + data.tokens
        # Task and progress determine the brackets, and the kind of the last token a bracket before.
        kind = 2 * task + (data.tokens >= source.family.symbols)
        prefix = kind * (1 + 2 * source.family.pairs) + progress
        return cls(source.read(data).double(), cell, prefix, progress, opened - closed)

    def is_seen(self, fit: "_Prefixes", position: int) -> Bool[Tensor, " n"]:
        """Return whether other sequences have each sequence's cell."""
        return torch.isin(self.cell[:, position], fit.cell[:, position])

    def residual(self, fit: "_Prefixes", position: int) -> Float[Tensor, "n d"]:
        """Subtract the mean of each sequence's cell, estimated on other sequences.

        States of a cell that the others lack become 0.
        """
        means = _group_means(fit.states[:, position], fit.cell[:, position])
        rest = self.states[:, position] - _look_up(means, self.cell[:, position])
        return rest * self.is_seen(fit, position)[:, None]


def _group_means(
    values: Float[Tensor, "n d"], group: Int[Tensor, " n"]
) -> Float[Tensor, "group d"]:
    """Compute the mean of every group; 0 for a group without members."""
    size = int(group.max()) + 1
    sums = values.new_zeros(size, values.shape[1]).index_add_(0, group, values)
    return sums / torch.bincount(group, minlength=size).clamp(min=1)[:, None]


def _look_up(means: Float[Tensor, "group d"], group: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Return the mean of each row's group; 0 for a group that is not listed."""
    listed = (group < len(means))[:, None]
    return means[group.clamp(max=len(means) - 1)] * listed


def _squared_residuals(fit: _Prefixes, test: _Prefixes, position: int) -> Float[Tensor, "n 3"]:
    """Compute squared distances from the mean, from the cell's mean, and from the prefix's mean."""
    centered = test.states[:, position] - fit.states[:, position].mean(0)
    centered *= test.is_seen(fit, position)[:, None]
    within = test.residual(fit, position)
    means = _group_means(fit.residual(fit, position), fit.prefix[:, position])
    rest = within - _look_up(means, test.prefix[:, position])
    return torch.stack([part.square().sum(1) for part in (centered, within, rest)], 1)


def _estimate_share(
    columns: list[Float[Tensor, "n 3"]],
    contrast: list[float],
    counts: Float[np.ndarray, "draw n"],
) -> Float[Tensor, "position 3"]:
    """Estimate a contrast of sums of squares over the total, the first, with its interval."""
    draws = torch.from_numpy(np.vstack([np.ones(counts.shape[1]), counts]))
    weights = torch.tensor(contrast, dtype=torch.float64)
    rows = []
    for column in columns:
        sums = draws @ column
        shares = sums @ weights / sums[:, 0]
        rows.append(torch.stack([shares[0], *percentiles(shares[1:])]))
    return torch.stack(rows)


def _residual_by_progress(
    test: _Prefixes, squares: Float[Tensor, "n 3"], steps: int
) -> Float[Tensor, " progress"]:
    """Average the squared distance from the cell's mean by progress, over the total variance."""
    progress, total = test.progress[:, -1], squares[:, 0].mean()
    parts = [squares[progress == passed, 1] for passed in range(steps + 1)]
    return torch.stack([part.mean() / total for part in parts])  # NaN without a sequence


def _probe(
    fit: _Prefixes, test: _Prefixes, draws: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Classify progress and height from the residual at the last position, linearly."""
    x, x_test = (part.residual(fit, -1) for part in (fit, test))
    accuracies, nulls = [], []
    for target in TARGETS:
        y, y_test = (getattr(part, target)[:, -1] for part in (fit, test))
        hits = (_classify(x, y, x_test) == y_test).numpy()
        accuracies.append([hits.mean(), *share_interval(hits)])
        orders = (_permute_within(fit.cell[:, -1].numpy(), rng) for _ in range(draws))
        permuted = (_classify(x, y[order], x_test) == y_test for order in orders)
        nulls.append([float(hits.double().mean()) for hits in permuted])
    return {"accuracy": torch.tensor(accuracies), "null": torch.tensor(nulls)}


def _classify(
    x: Float[Tensor, "n d"], y: Int[Tensor, " n"], x_test: Float[Tensor, "m d"]
) -> Int[Tensor, " m"]:
    """Predict classes by linear discriminant analysis, for which a class may have one member."""
    classes, index = y.unique(return_inverse=True)
    means = _group_means(x, index)
    within = x - means[index]
    covariance = within.T @ within / len(x)
    ridge = _SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance)).double()
    # Without variance, the most frequent class is predicted.
    directions: Tensor = torch.linalg.pinv(covariance + ridge) @ means.T
    shares = torch.bincount(index) / len(x)
    scores = x_test @ directions - (means.T * directions).sum(0) / 2 + shares.log()
    predicted: Tensor = classes[scores.argmax(1)]
    return predicted


def _permute_within(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation that moves items within their groups only."""
    order = np.arange(len(group))
    for label in np.unique(group):
        (members,) = np.nonzero(group == label)
        order[members] = rng.permutation(members)
    return order
