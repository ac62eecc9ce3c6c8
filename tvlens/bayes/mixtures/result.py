"""`RetrievalCheck`: what mixed prompts do to a language model, beside what Bayes says."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ... import viz
from ...errors import unknown
from ...saved import Saved
from .posterior_agreement import Agreement, agreement, cluster_draws

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Share:
    """A share of squared length left unexplained, by layer.

    Attributes:
        values: from 0 (points are convex combinations) to 1 (the mean vector does as well).
        interval: 95% bootstrap interval over queries.
    """

    values: Float[Tensor, " layer"]
    interval: Float[Tensor, "layer 2"]


@dataclass(frozen=True)
class RetrievalCheck(Saved):
    """States and outputs on prompts that mix tasks, with the posteriors and every control.

    Intervals resample queries with all their prompts.

    Attributes:
        tasks, noise_models, controls, conditions: names along the axes task, model, control and
            condition.
        layer: chosen on the selection part, as the one where vectors work best.
        selection: the numbers it was chosen by: mean probability of a task's answer with its
            vector written into bare queries.
        vectors: the task vectors theta_k.
        sources: the task of every demonstration of the mixed prompts.
        queries: the query of every mixed prompt, an index of settings["test"].
        posterior: probability that the query is of each task, under every noise model.
        probability: the model's, of the first token of each task's answer.
        weights: convex weights beta of the state, less mean and query effect.
        residual, size: squared length of what the combination leaves, and of the whole.
        pure_task, pure_queries, pure_probability, pure_weights, pure_residual, pure_size: the same
            for prompts of one task only: the best that noise allows.
        null_share, null_correlation: residual share, and correlation of the weights with the
            first noise model's posterior, with the vertices of every control.
        mixed_in: weights of the combinations written into bare queries.
        mixed_queries: the query of each.
        injected: probability of each task's answer under every condition.
        settings: everything needed to run it again.
    """

    tasks: tuple[str, ...]
    noise_models: tuple[str, ...]
    controls: tuple[str, ...]
    conditions: tuple[str, ...]
    layer: int
    selection: Float[Tensor, " layer"]
    vectors: Float[Tensor, "task layer d_model"]
    sources: Int[Tensor, "prompt shot"]
    queries: Int[Tensor, " prompt"]
    posterior: Float[Tensor, "model prompt task"]
    probability: Float[Tensor, "prompt task"]
    weights: Float[Tensor, "layer prompt task"]
    residual: Float[Tensor, "layer prompt"]
    size: Float[Tensor, "layer prompt"]
    pure_task: Int[Tensor, " pure"]
    pure_queries: Int[Tensor, " pure"]
    pure_probability: Float[Tensor, "pure task"]
    pure_weights: Float[Tensor, "layer pure task"]
    pure_residual: Float[Tensor, "layer pure"]
    pure_size: Float[Tensor, "layer pure"]
    null_share: Float[Tensor, "control layer draw"]
    null_correlation: Float[Tensor, "control layer draw"]
    mixed_in: Float[Tensor, "row task"]
    mixed_queries: Int[Tensor, " row"]
    injected: Float[Tensor, "condition row task"]
    settings: dict

    def __repr__(self) -> str:
        found = self.weights_follow[self.noise_models[0]].at(self.layer)
        return (
            f"RetrievalCheck({' + '.join(self.tasks)}: {len(self.queries)} prompts, layer "
            f"{self.layer}, correlation {found.correlation:.2f}, distance {found.distance:.2f})"
        )

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figures:
        """Agreement and residual by layer, weights on the simplex, and combinations written in."""
        from .show import check_figure

        return check_figure(self)

    @cached_property
    def behaviour(self) -> Float[Tensor, "prompt task"]:
        """The model's probabilities of the tasks' answers, as shares of their sum."""
        return _shares(self.probability)

    @cached_property
    def weights_follow(self) -> dict[str, Agreement]:
        """The weights against every noise model's posterior and the model's own behaviour."""
        references = dict(zip(self.noise_models, self.posterior, strict=True))
        references["behaviour"] = self.behaviour
        return {k: agreement(self.weights, v, clusters=self.queries) for k, v in references.items()}

    @cached_property
    def behaviour_follows(self) -> dict[str, Agreement]:
        """The model's behaviour against every noise model's posterior."""
        references = zip(self.noise_models, self.posterior, strict=True)
        return {k: agreement(self.behaviour, v, clusters=self.queries) for k, v in references}

    @cached_property
    def injection_follows(self) -> dict[str, Agreement]:
        """Behaviour with something written in against the weights of the combination."""
        rows = zip(self.conditions, _shares(self.injected), strict=True)
        return {k: agreement(v, self.mixed_in, clusters=self.mixed_queries) for k, v in rows}

    @cached_property
    def share(self) -> Share:
        """Share of the mixed prompts' states that convex combinations leave."""
        return _share(self.residual, self.size, self.queries)

    @cached_property
    def pure_share(self) -> Share:
        """The same for prompts of one task: what noise and queries alone leave."""
        return _share(self.pure_residual, self.pure_size, self.pure_queries)

    def null(
        self, control: str, measure: Literal["share", "correlation"] = "share"
    ) -> Float[Tensor, "layer draw"]:
        """What a control's vertices give: the residual "share" or the "correlation"."""
        if control not in self.controls:
            raise unknown("control", control, self.controls)
        measures = {"share": self.null_share, "correlation": self.null_correlation}
        if measure not in measures:
            raise unknown("measure", measure, measures)
        return measures[measure][self.controls.index(control)]

    @cached_property
    def places(self) -> dict[str, Float[Tensor, " shot"]]:
        """How much a demonstration counts by its place: slopes of least squares, by what follows.

        Of behaviour, of the weights at `layer`, and of every posterior: the task's share less
        1 / K against "demonstration i is of this task" less 1 / K, all tasks and prompts together.
        A posterior that does not look at the order has equal slopes, up to noise.
        """
        k = len(self.tasks)
        shown = torch.nn.functional.one_hot(self.sources, k).double() - 1 / k
        named = {"behaviour": self.behaviour, "weights": self.weights[self.layer]}
        named |= dict(zip(self.noise_models, self.posterior, strict=True))
        design = rearrange(shown, "prompt shot task -> (prompt task) shot")
        return {
            name: torch.linalg.lstsq(design, (share.double() - 1 / k).flatten()[:, None]).solution[
                :, 0
            ]
            for name, share in named.items()
        }

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per measure, layer and reference: value, interval, and its null's mean."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict]:
        where = {"weights": self.weights_follow, "behaviour": self.behaviour_follows}
        for of, found in where.items():
            for against, one in found.items():
                for row in one.to_dataframe().to_dict("records"):
                    layer = row.pop("layer", None)
                    yield {"of": of, "against": against, "layer": layer} | row
        for condition, one in self.injection_follows.items():
            (row,) = one.to_dataframe().to_dict("records")
            yield {"of": f"written: {condition}", "against": "combination"} | row


def _shares(p: Float[Tensor, "*row task"]) -> Float[Tensor, "*row task"]:
    return p / p.sum(-1, keepdim=True)


def _share(residual: Tensor, size: Tensor, clusters: Tensor) -> Share:
    drawn = cluster_draws(clusters, size.shape[-1], resamples=1000, seed=0)
    boot = (residual @ drawn.T) / (size @ drawn.T)
    ends = torch.tensor([0.025, 0.975], dtype=boot.dtype)
    values = residual.sum(-1) / size.sum(-1)
    return Share(values, torch.quantile(boot, ends, dim=-1).T)
