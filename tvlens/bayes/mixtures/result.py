"""`RetrievalCheck`: states and answers of a language model on mixed prompts, with posteriors."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import NamedValues
from ...results import Result
from ...stats import percentiles
from .posterior_agreement import Agreement, agreement, cluster_resamples

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ResidualShare:
    """Share of squared norm that convex combinations leave unexplained, by layer.

    Attributes:
        values: from 0 (states are convex combinations) to 1 (no better than the mean vector).
        interval: 95% bootstrap interval over queries.
    """

    values: Float[Tensor, " layer"]
    interval: Float[Tensor, "layer 2"]


@dataclass(frozen=True)
class RetrievalCheck(Result):
    """States and answers on prompts that mix tasks, with posteriors and controls.

    Intervals resample queries together with all their prompts.

    Attributes:
        tasks: names along the axis task.
        noise_models: names along the axis model.
        controls: names along the axis control.
        conditions: names along the axis condition.
        layer: the layer with the highest score on the validation split.
        layer_scores: mean probability of a task's answer with its vector injected into zero-shot
            queries, by layer.
        vectors: the task vectors theta_k.
        sources: the task of every demonstration of the mixed prompts.
        queries: the query of every mixed prompt, an index into settings["test"].
        posterior: probabilities of the query's task under every noise model.
        probability: the model's probability of the first token of each task's answer.
        weights: convex weights beta of the state, minus mean and query effect.
        squared_residual, squared_norm: of the state relative to the combination, and of the state.
        pure_task, pure_queries, pure_probability, pure_weights, pure_squared_residual,
            pure_squared_norm: the same for prompts of a single task, as a noise ceiling.
        null_residual_share, null_correlation: residual share, and correlation of the weights with
            the first noise model's posterior, for the vertices of every control.
        injected_weights: weights of the combinations injected into zero-shot queries.
        injected_queries: the query of each.
        injected_probability: probability of each task's answer under every condition.
        settings: everything needed to run it again.
    """

    tasks: tuple[str, ...]
    noise_models: tuple[str, ...]
    controls: tuple[str, ...]
    conditions: tuple[str, ...]
    layer: int
    layer_scores: Float[Tensor, " layer"]
    vectors: Float[Tensor, "task layer d_model"]
    sources: Int[Tensor, "prompt shot"]
    queries: Int[Tensor, " prompt"]
    posterior: Float[Tensor, "model prompt task"]
    probability: Float[Tensor, "prompt task"]
    weights: Float[Tensor, "layer prompt task"]
    squared_residual: Float[Tensor, "layer prompt"]
    squared_norm: Float[Tensor, "layer prompt"]
    pure_task: Int[Tensor, " pure"]
    pure_queries: Int[Tensor, " pure"]
    pure_probability: Float[Tensor, "pure task"]
    pure_weights: Float[Tensor, "layer pure task"]
    pure_squared_residual: Float[Tensor, "layer pure"]
    pure_squared_norm: Float[Tensor, "layer pure"]
    null_residual_share: Float[Tensor, "control layer draw"]
    null_correlation: Float[Tensor, "control layer draw"]
    injected_weights: Float[Tensor, "row task"]
    injected_queries: Int[Tensor, " row"]
    injected_probability: Float[Tensor, "condition row task"]
    settings: dict

    def __repr__(self) -> str:
        result = self.weight_agreement[self.noise_models[0]].at_layer(self.layer)
        return (
            f"RetrievalCheck({' + '.join(self.tasks)}: {len(self.queries)} prompts, layer "
            f"{self.layer}, correlation {result.correlation:.2f}, distance {result.distance:.2f})"
        )

    @cached_property
    def behaviour(self) -> Float[Tensor, "prompt task"]:
        """The model's probabilities of the tasks' answers, normalized to sum to 1."""
        return _normalize(self.probability)

    @cached_property
    def weight_agreement(self) -> dict[str, Agreement]:
        """Agreement of the weights with every noise model's posterior and with the behaviour."""
        references = dict(zip(self.noise_models, self.posterior, strict=True))
        references["behaviour"] = self.behaviour
        return {k: agreement(self.weights, v, clusters=self.queries) for k, v in references.items()}

    @cached_property
    def behaviour_agreement(self) -> dict[str, Agreement]:
        """Agreement of the behaviour with every noise model's posterior."""
        references = zip(self.noise_models, self.posterior, strict=True)
        return {k: agreement(self.behaviour, v, clusters=self.queries) for k, v in references}

    @cached_property
    def injection_agreement(self) -> dict[str, Agreement]:
        """Agreement of the answers under every condition with the injected weights."""
        rows = zip(self.conditions, _normalize(self.injected_probability), strict=True)
        return {
            k: agreement(v, self.injected_weights, clusters=self.injected_queries) for k, v in rows
        }

    @cached_property
    def residual_share(self) -> ResidualShare:
        """Residual share of the states of mixed prompts."""
        return _compute_residual_share(self.squared_residual, self.squared_norm, self.queries)

    @cached_property
    def pure_residual_share(self) -> ResidualShare:
        """Residual share of the states of single-task prompts, due to noise and queries."""
        return _compute_residual_share(
            self.pure_squared_residual, self.pure_squared_norm, self.pure_queries
        )

    @cached_property
    def null(self) -> NamedValues[Tensor]:
        """Null distributions [layer draw] by (control, "residual share" or "correlation")."""
        axes = {"control": self.controls, "measure": ("residual share", "correlation")}
        pairs = zip(self.null_residual_share, self.null_correlation, strict=True)
        return NamedValues(axes, (null for pair in pairs for null in pair))

    @cached_property
    def position_slopes(self) -> dict[str, Float[Tensor, " shot"]]:
        """Influence of a demonstration by its position: slopes of a least-squares regression.

        The dependent variable is a task's share minus 1 / K, in the behaviour, the weights at
        `layer` and every posterior; the regressors indicate whether demonstration i is of that
        task, minus 1 / K, over all tasks and prompts. A posterior that ignores the order has equal
        slopes, up to noise.
        """
        k = len(self.tasks)
        indicators = torch.nn.functional.one_hot(self.sources, k).double() - 1 / k
        shares = {"behaviour": self.behaviour, "weights": self.weights[self.layer]}
        shares |= dict(zip(self.noise_models, self.posterior, strict=True))
        design = rearrange(indicators, "prompt shot task -> (prompt task) shot")
        return {
            name: torch.linalg.lstsq(
                design, (residual_share.double() - 1 / k).flatten()[:, None]
            ).solution[:, 0]
            for name, residual_share in shares.items()
        }

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per measure, layer and reference: value, interval, mean of the null."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict]:
        agreements = {"weights": self.weight_agreement, "behaviour": self.behaviour_agreement}
        for measured, by_reference in agreements.items():
            for reference, result in by_reference.items():
                for row in result.to_dataframe().to_dict("records"):
                    layer = row.pop("layer", None)
                    yield {"measured": measured, "reference": reference, "layer": layer} | row
        for condition, result in self.injection_agreement.items():
            (row,) = result.to_dataframe().to_dict("records")
            yield {"measured": f"injected: {condition}", "reference": "combination"} | row


def _normalize(p: Float[Tensor, "*row task"]) -> Float[Tensor, "*row task"]:
    return p / p.sum(-1, keepdim=True)


def _compute_residual_share(
    squared_residual: Tensor, squared_norm: Tensor, clusters: Tensor
) -> ResidualShare:
    counts = cluster_resamples(clusters, squared_norm.shape[-1], resamples=1000, seed=0)
    boot = (squared_residual @ counts.T) / (squared_norm @ counts.T)
    values = squared_residual.sum(-1) / squared_norm.sum(-1)
    return ResidualShare(values, percentiles(boot).T)
