"""`retrieval_check`: are a language model's states on mixed prompts mixtures of task vectors?"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError
from ...geometry import simplex_weights
from ...sites import SiteName, component
from ...tasks import Task, Template
from ...vectors.extraction import provenance
from .delimiter import Delimiter
from .experiment import Experiment
from .mixture import aligned, label_likelihood
from .posterior import NOISE_MODELS, TaskPosterior
from .posterior_agreement import correlation
from .result import RetrievalCheck
from .simplices import CONTROLS, Control, other_tasks

# Catalogue tasks whose vectors serve as a control for tasks of other kinds.
_OTHERS = ("lower-upper", "country-capital", "animal-class", "antonym", "singular-plural")
_OTHERS += ("food-color", "english-french", "first-letter")


def retrieval_check(
    model: Any,
    tasks: Sequence[str | Task],
    *,
    others: Sequence[str | Task] | None = None,
    template: str | Template = "qa",
    shots: int = 6,
    contexts: int = 20,
    count: int = 252,
    noise: float = 0.05,
    posteriors: Mapping[str, TaskPosterior] | None = None,
    repeats: int = 4,
    null: int = 20,
    site: SiteName | str = "resid_post",
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> RetrievalCheck:
    """Show a model prompts that mix tasks; compare its states and outputs with Bayes.

    The tasks' common inputs are split into three parts that share no input. On the first, task
    vectors theta_k are mean states of pure prompts (`extract`'s method "state", the same inputs
    for every task). On the second, the layer is chosen at which writing theta_k into a bare
    query's state makes task k's answer most likely. On the third, every state h at the delimiter
    of a mixed prompt, less its query's own effect nu_x (from pure prompts of that query), is
    written as a convex combination of the theta_k; its weights are held against the posterior
    of the query's task and against what the model then answers. Last, convex combinations with
    weights from Dirichlet(1) are written into bare queries.

    Args:
        model: any causal model with a tokenizer that `load` gives.
        tasks: two or more, catalogue names, files or tasks, with common inputs.
        others: tasks whose vectors are a control, at least as many as `tasks`; by default those of
            the catalogue that are of other kinds.
        template: as in `extract`.
        shots: demonstrations per prompt.
        contexts: pure prompts behind every task vector.
        count: mixed prompts of the test; all divisions of the demonstrations equally often.
        noise: share of wrong labels in the likelihood (see `label_likelihood`).
        posteriors: noise models by name, the foremost first; `NOISE_MODELS` by default.
        repeats: combinations written into every test query.
        null: draws of every control.
        site: the component to read and write.
        seed: of the split and all draws.
        batch_size: prompts per forward. Cost: about count + 2 K x test queries + contexts x
            (K + others) few-shot prompts, K x selection queries bare ones that branch at every
            layer, and 6 x repeats x test queries bare ones.

    Raises:
        TvlensError: tasks without common inputs or too few of them, inputs on which the tasks'
            answers begin alike everywhere, unknown names, or settings out of range.

    Source: the properties P2 and P3 of "Task Vector Geometry Underlies Dual Modes of Task
    Inference in Transformers" (2026), there for models trained from scratch.
    """
    chosen = aligned([_loaded(task) for task in tasks])
    posteriors = dict(NOISE_MODELS if posteriors is None else posteriors)
    strangers = _others(chosen, others, shots)
    settings = {"shots": shots, "contexts": contexts, "count": count, "repeats": repeats}
    settings |= {"noise": noise, "null": null, "seed": seed, "site": component(site)}
    _check(settings, posteriors)
    parts = tuple(zip(*(task.split(seed=seed) for task in chosen), strict=True))
    place = Delimiter(model, component(site), batch_size, progress)
    experiment = Experiment(place, Template.of(template), shots, seed, *parts)
    mixtures = experiment.mixtures(count)
    likelihood = label_likelihood(chosen, mixtures, noise=noise)
    alpha = torch.stack([posterior(likelihood) for posterior in posteriors.values()])

    states = torch.stack([experiment.pure_states(task, contexts) for task in experiment.train])
    theta = states.mean(2)
    selection = experiment.selection(theta)
    layer = int(selection.argmax())

    mixed, pure = experiment.points(mixtures)
    weights, residual = explained(mixed.values, theta - theta.mean(0))
    pure_weights, pure_residual = explained(pure.values, theta - theta.mean(0))

    stranger = torch.stack([experiment.pure_states(t, contexts).mean(1) for t in strangers])
    controls = CONTROLS | {"other tasks": partial(other_tasks, others=stranger)}
    nulls = _nulls(mixed.values, states, alpha[0], controls, null, seed)
    mixed_in, asked, injected = experiment.injected(theta[:, layer], layer, repeats)
    return RetrievalCheck(
        tasks=tuple(task.name for task in chosen),
        noise_models=tuple(posteriors),
        controls=tuple(controls),
        conditions=tuple(injected),
        layer=layer,
        selection=selection,
        vectors=theta,
        sources=mixed.sources,
        queries=mixed.queries,
        posterior=alpha,
        probability=mixed.probability,
        weights=weights,
        residual=residual,
        size=_size(mixed.values),
        pure_task=pure.sources[:, 0],
        pure_queries=pure.queries,
        pure_probability=pure.probability,
        pure_weights=pure_weights,
        pure_residual=pure_residual,
        pure_size=_size(pure.values),
        null_share=nulls[..., 0],
        null_correlation=nulls[..., 1],
        mixed_in=mixed_in,
        mixed_queries=asked,
        injected=torch.stack(list(injected.values())),
        settings=settings | _provenance(experiment, strangers),
    )


def explained(
    points: Float[Tensor, "layer prompt d_model"], vertices: Float[Tensor, "task layer d_model"]
) -> tuple[Float[Tensor, "layer prompt task"], Float[Tensor, "layer prompt"]]:
    """Convex weights of the points at every layer, and the squared lengths of what is left."""
    weights, residual = [], []
    for p, v in zip(points.double(), vertices.double().unbind(1), strict=True):
        w = simplex_weights(p, v)
        weights.append(w)
        residual.append((p - w @ v).square().sum(-1))
    return torch.stack(weights), torch.stack(residual)


def _by_chance(
    points: Float[Tensor, "layer prompt d_model"], vertices: Float[Tensor, "task layer d_model"]
) -> tuple[Float[Tensor, "layer prompt task"], Float[Tensor, "layer prompt"]]:
    """As `explained`; a control whose vertices fall together tells nothing: even weights."""
    parts = []
    for p, v in zip(points.unbind(0), vertices.unbind(1), strict=True):
        try:
            parts.append(explained(p[None], v[:, None]))
        except TvlensError:
            even = torch.full((1, len(p), len(v)), 1 / len(v), dtype=torch.float64)
            parts.append((even, (p.double() - v.double().mean(0)).square().sum(-1)[None]))
    weights, residual = zip(*parts, strict=True)
    return torch.cat(weights), torch.cat(residual)


def _size(points: Float[Tensor, "layer prompt d_model"]) -> Float[Tensor, "layer prompt"]:
    return points.double().square().sum(-1)


def _nulls(
    points: Float[Tensor, "layer prompt d_model"],
    states: Float[Tensor, "task layer context d_model"],
    alpha: Float[Tensor, "prompt task"],
    controls: Mapping[str, Control],
    draws: int,
    seed: int,
) -> Float[Tensor, "control layer draw 2"]:
    """Residual share, and correlation with the posterior, that other vertices give."""
    rng, size = np.random.default_rng(seed), _size(points).sum(-1)

    def one(control: Control) -> Float[Tensor, "layer 2"]:
        weights, residual = _by_chance(points, control(states, rng))
        return torch.stack([residual.sum(-1) / size, correlation(weights, alpha)], -1)

    numbers = [torch.stack([one(c) for _ in range(draws)], 1) for c in controls.values()]
    return torch.stack(numbers)


def _loaded(task: str | Task) -> Task:
    return task if isinstance(task, Task) else Task.load(task)


def _others(tasks: Sequence[Task], others: Sequence[str | Task] | None, shots: int) -> list[Task]:
    """Tasks for the control, large enough, and none of them among the tasks themselves."""
    names, kinds = {task.name for task in tasks}, {task.kind for task in tasks}
    if others is None:
        found = [task for task in map(Task.load, _OTHERS) if task.kind not in kinds]
        found = [task for task in found if task.name not in names][: len(tasks) + 2]
    else:
        found = [_loaded(task) for task in others]
    if len(found) < len(tasks):
        raise TvlensError(
            f"{len(found)} other tasks: the control needs at least {len(tasks)}, as many as tasks"
        )
    if clash := names & {task.name for task in found}:
        raise TvlensError(f"{min(clash)!r} is among the tasks and the other ones")
    for task in found:
        if len(task) < shots + 1:
            raise TvlensError(f"{task.name} has {len(task)} pairs: {shots} shots need one more")
    return found


def _check(settings: Mapping[str, Any], posteriors: Mapping[str, TaskPosterior]) -> None:
    for name in ("contexts", "count", "repeats"):
        if settings[name] < 2:
            raise TvlensError(f"{name} is {settings[name]}: give at least 2")
    if settings["null"] < 1:
        raise TvlensError("null is below 1: give at least one draw of every control")
    if not posteriors:
        raise TvlensError("no noise model: give at least one posterior")


def _provenance(experiment: Experiment, strangers: Sequence[Task]) -> dict[str, Any]:
    """Model, versions, template, and which inputs were used for what."""
    about = provenance(experiment.place.model, experiment.train[0])
    kept = {k: about[k] for k in ("model", "revision", "processed", "dtype", "versions")}
    parts = {"extract": experiment.train, "select": experiment.select, "test": experiment.test}
    kept |= {name: [x for x, _ in tasks[0]] for name, tasks in parts.items()}
    kept |= {"template": experiment.template.demonstration}
    return kept | {"others": [task.name for task in strangers]}
