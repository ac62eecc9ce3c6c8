"""`retrieval_check`: states of a language model on mixed prompts as mixtures of task vectors."""

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
from .experiment import MixtureExperiment
from .noise_models import NOISE_MODELS, TaskPosterior
from .posterior_agreement import correlation
from .prompts import align_tasks, label_likelihood
from .query_delimiter import QueryDelimiter
from .result import RetrievalCheck
from .simplex_controls import CONTROLS, Control, sample_other_tasks

# Catalogue tasks whose vectors serve as a control for tasks of other kinds.
_CONTROL_TASKS = ("lower-upper", "country-capital", "animal-class", "antonym", "singular-plural")
_CONTROL_TASKS += ("food-color", "english-french", "first-letter")


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
    noise_models: Mapping[str, TaskPosterior] | None = None,
    repeats: int = 4,
    null: int = 20,
    site: SiteName | str = "resid_post",
    seed: int = 0,
    batch_size: int = 16,
    progress: bool | None = None,
) -> RetrievalCheck:
    """Compare states and answers on prompts that mix tasks with Bayesian posteriors.

    The tasks' common inputs are split into three disjoint parts. On the training part, task vectors
    theta_k are mean states of single-task prompts (method "state" of `extract`, with the same
    inputs for every task). On the validation part, the layer is selected at which injecting theta_k
    into a zero-shot query gives task k's answer the highest probability. On the test part, every
    state h at the delimiter of a mixed prompt, minus the effect nu_x of its query (from single-task
    prompts of that query), is decomposed into a convex combination of the theta_k; its weights are
    compared with the posterior of the query's task and with the model's answers. Finally, convex
    combinations with weights from Dirichlet(1) are injected into zero-shot queries.

    Args:
        model: a causal model with a tokenizer, as returned by `load`.
        tasks: two or more tasks with common inputs: catalogue names, files or `Task` objects.
        others: tasks whose vectors are a control, at least as many; by default tasks of
            the catalogue that are of other kinds.
        template: as in `extract`.
        shots: demonstrations per prompt.
        contexts: single-task prompts per task vector.
        count: number of mixed prompts; all divisions of the demonstrations are equally frequent.
        noise: label-noise rate of the likelihood (see `label_likelihood`).
        noise_models: noise models by name, the primary one first; `NOISE_MODELS` by default.
        repeats: combinations injected into every test query.
        null: draws of every control.
        site: the component that is read and replaced.
        seed: random seed of the splits and all samples.
        batch_size: prompts per forward. Cost: about count + 2 K x test queries + contexts x
            (K + others) few-shot prompts, K x validation queries zero-shot prompts that branch at
            every layer, and 6 x repeats x test queries zero-shot prompts.

    Raises:
        TvlensError: the tasks have no or too few common inputs, their answers begin with the same
            token on all inputs, a name is unknown, or a setting is out of range.

    Source: the properties P2 and P3 of "Task Vector Geometry Underlies Dual Modes of Task
    Inference in Transformers" (2026), there for models trained from scratch.
    """
    aligned = align_tasks([_load_task(task) for task in tasks])
    noise_models = dict(NOISE_MODELS if noise_models is None else noise_models)
    control_tasks = _load_control_tasks(aligned, others, shots)
    settings = {"shots": shots, "contexts": contexts, "count": count, "repeats": repeats}
    settings |= {"noise": noise, "null": null, "seed": seed, "site": component(site)}
    _check_settings(settings, noise_models)
    splits = tuple(zip(*(task.split(seed=seed) for task in aligned), strict=True))
    delimiter = QueryDelimiter(model, component(site), batch_size, progress)
    experiment = MixtureExperiment(delimiter, Template.of(template), shots, seed, *splits)
    mixtures = experiment.build_mixtures(count)
    likelihood = label_likelihood(aligned, mixtures, noise=noise)
    alpha = torch.stack([posterior(likelihood) for posterior in noise_models.values()])

    states = torch.stack([experiment.read_pure_states(task, contexts) for task in experiment.train])
    theta = states.mean(2)
    layer_scores = experiment.score_layers(theta)
    layer = int(layer_scores.argmax())

    mixed, pure = experiment.read_centered_states(mixtures)
    weights, squared_residual = fit_convex_weights(mixed.values, theta - theta.mean(0))
    pure_weights, pure_squared_residual = fit_convex_weights(pure.values, theta - theta.mean(0))

    others = [experiment.read_pure_states(task, contexts).mean(1) for task in control_tasks]
    controls = CONTROLS | {"other tasks": partial(sample_other_tasks, others=torch.stack(others))}
    nulls = _sample_nulls(mixed.values, states, alpha[0], controls, null, seed)
    injected_weights, injected_queries, injected = experiment.inject_combinations(
        theta[:, layer], layer, repeats
    )
    return RetrievalCheck(
        tasks=tuple(task.name for task in aligned),
        noise_models=tuple(noise_models),
        controls=tuple(controls),
        conditions=tuple(injected),
        layer=layer,
        layer_scores=layer_scores,
        vectors=theta,
        sources=mixed.sources,
        queries=mixed.queries,
        posterior=alpha,
        probability=mixed.probability,
        weights=weights,
        squared_residual=squared_residual,
        squared_norm=_squared_norm(mixed.values),
        pure_task=pure.sources[:, 0],
        pure_queries=pure.queries,
        pure_probability=pure.probability,
        pure_weights=pure_weights,
        pure_squared_residual=pure_squared_residual,
        pure_squared_norm=_squared_norm(pure.values),
        null_residual_share=nulls[..., 0],
        null_correlation=nulls[..., 1],
        injected_weights=injected_weights,
        injected_queries=injected_queries,
        injected_probability=torch.stack(list(injected.values())),
        settings=settings | _describe_provenance(experiment, control_tasks),
    )


def fit_convex_weights(
    states: Float[Tensor, "layer prompt d_model"], vertices: Float[Tensor, "task layer d_model"]
) -> tuple[Float[Tensor, "layer prompt task"], Float[Tensor, "layer prompt"]]:
    """Fit convex weights at every layer; returns them and the squared residuals."""
    weights, squared_residuals = [], []
    for x, v in zip(states.double(), vertices.double().unbind(1), strict=True):
        w = simplex_weights(x, v)
        weights.append(w)
        squared_residuals.append((x - w @ v).square().sum(-1))
    return torch.stack(weights), torch.stack(squared_residuals)


def _fit_control_weights(
    states: Float[Tensor, "layer prompt d_model"], vertices: Float[Tensor, "task layer d_model"]
) -> tuple[Float[Tensor, "layer prompt task"], Float[Tensor, "layer prompt"]]:
    """Fit convex weights, or use uniform ones where a control's vertices are degenerate."""
    parts = []
    for x, v in zip(states.unbind(0), vertices.unbind(1), strict=True):
        try:
            parts.append(fit_convex_weights(x[None], v[:, None]))
        except TvlensError:
            uniform = torch.full((1, len(x), len(v)), 1 / len(v), dtype=torch.float64)
            parts.append((uniform, (x.double() - v.double().mean(0)).square().sum(-1)[None]))
    weights, squared_residuals = zip(*parts, strict=True)
    return torch.cat(weights), torch.cat(squared_residuals)


def _squared_norm(states: Float[Tensor, "layer prompt d_model"]) -> Float[Tensor, "layer prompt"]:
    return states.double().square().sum(-1)


def _sample_nulls(
    states: Float[Tensor, "layer prompt d_model"],
    pure_states: Float[Tensor, "task layer context d_model"],
    alpha: Float[Tensor, "prompt task"],
    controls: Mapping[str, Control],
    draws: int,
    seed: int,
) -> Float[Tensor, "control layer draw 2"]:
    """Sample residual share and correlation with the posterior under every control."""
    rng, squared_norm = np.random.default_rng(seed), _squared_norm(states).sum(-1)

    def sample(control: Control) -> Float[Tensor, "layer 2"]:
        weights, squared_residual = _fit_control_weights(states, control(pure_states, rng))
        share = squared_residual.sum(-1) / squared_norm
        return torch.stack([share, correlation(weights, alpha)], -1)

    nulls = [torch.stack([sample(c) for _ in range(draws)], 1) for c in controls.values()]
    return torch.stack(nulls)


def _load_task(task: str | Task) -> Task:
    return task if isinstance(task, Task) else Task.load(task)


def _load_control_tasks(
    tasks: Sequence[Task], others: Sequence[str | Task] | None, shots: int
) -> list[Task]:
    """Load the tasks of the control and check their number, names and sizes."""
    names, kinds = {task.name for task in tasks}, {task.kind for task in tasks}
    if others is None:
        unrelated = [task for task in map(Task.load, _CONTROL_TASKS) if task.kind not in kinds]
        control_tasks = [task for task in unrelated if task.name not in names][: len(tasks) + 2]
    else:
        control_tasks = [_load_task(task) for task in others]
    if len(control_tasks) < len(tasks):
        raise TvlensError(f"{len(control_tasks)} control tasks: at least {len(tasks)} are needed")
    if shared := names & {task.name for task in control_tasks}:
        raise TvlensError(f"{min(shared)!r} is both a task and a control task")
    for task in control_tasks:
        if len(task) < shots + 1:
            raise TvlensError(f"{task.name} has {len(task)} pairs: {shots} shots need one more")
    return control_tasks


def _check_settings(settings: Mapping[str, Any], noise_models: Mapping[str, TaskPosterior]) -> None:
    for name in ("contexts", "count", "repeats"):
        if settings[name] < 2:
            raise TvlensError(f"{name} is {settings[name]}: give at least 2")
    if settings["null"] < 1:
        raise TvlensError("null is below 1: give at least one draw of every control")
    if not noise_models:
        raise TvlensError("no noise model: give at least one posterior")


def _describe_provenance(
    experiment: MixtureExperiment, control_tasks: Sequence[Task]
) -> dict[str, Any]:
    """Describe model, versions, template, and the inputs of every split."""
    metadata = provenance(experiment.delimiter.model, experiment.train[0])
    settings = {k: metadata[k] for k in ("model", "revision", "processed", "dtype", "versions")}
    splits = {"train": experiment.train, "validation": experiment.validation}
    splits |= {"test": experiment.test}
    settings |= {name: [x for x, _ in tasks[0]] for name, tasks in splits.items()}
    settings |= {"template": experiment.template.demonstration}
    return settings | {"others": [task.name for task in control_tasks]}
