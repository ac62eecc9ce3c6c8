"""Checks of a trained model of the latent study: at its end and at every checkpoint."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...activations import collect
from ...bayes import (
    ReferencePredictions,
    ablation,
    behaviour,
    injection,
    learner_subspace,
    novel_tasks,
    representation,
    retrieval,
    statistics_regression,
    task_effects,
)
from ...bayes.checks.probing import max_observations, read_probe_states
from ...bayes.checks.simplex_projection import project_on_token_simplices
from ...geometry import Effects
from ...progress import progress_bar
from ...saved import write_tensors
from ...training import Run
from .config import TOKEN_DEPENDENT, FamilyConfig

# Number of example sequences on the page, one for each of the first major tasks.
_N_EXAMPLES = 3


def check_model(config: FamilyConfig, run: Run, family: Any, seed: int, folder: Path) -> None:
    """Run every check on the final model and save each result."""
    model, sizes = run.model(), config.checks
    for layer in range(config.layers):
        result = representation(model, family, layer=layer, seed=seed, **sizes["representation"])
        result.save(_check_path(folder, f"representation-{layer}"))
        options = dict(layer=layer, effects=result.effects, seed=seed)
        options["per_cell"] = sizes["representation"]["per_cell"]
        injected = injection(model, family, **options, **sizes["injection"])
        injected.save(_check_path(folder, f"injection-{layer}"))
    options = dict(effects=result.effects, seed=seed)
    injected.save(_check_path(folder, "injection"))
    behaviour(model, family, seed=seed, **sizes["behaviour"]).save(_check_path(folder, "behaviour"))
    ablation(model, family, **options, **sizes["ablation"]).save(_check_path(folder, "ablation"))
    learner = learner_subspace(model, family, **options, **sizes["learner_subspace"])
    learner.save(_check_path(folder, "learner_subspace"))
    regression = statistics_regression(
        model, family, learner.subspace, seed=seed, **sizes["statistics_regression"]
    )
    regression.save(_check_path(folder, "statistics_regression"))
    novel = novel_tasks(model, family, **options, **sizes["novel_tasks"])
    novel.save(_check_path(folder, "novel_tasks"))
    _save_example(config, model, family, result.effects, seed, folder)


def _save_example(
    config: FamilyConfig, model: Any, family: Any, effects: Effects, seed: int, folder: Path
) -> None:
    """Save weights and posterior at every position of a few sequences."""
    example: dict[str, Tensor] = {}
    if config.family != "regression":
        tasks = torch.arange(min(_N_EXAMPLES, family.majors))
        tokens = family.sample_tasks(tasks, config.length, seed=seed).tokens
        curves = _compute_example(config, model, family, effects, tokens, seed)
        example = {"tokens": tokens, **curves}
    write_tensors(_check_path(folder, "example"), example)


def _compute_example(
    config: FamilyConfig,
    model: Any,
    family: Any,
    effects: Effects,
    tokens: Int[Tensor, "n length"],
    seed: int,
) -> dict[str, Float[Tensor, "n length major"]]:
    """Compute weights and posterior, with token-specific task vectors if the family needs them."""
    options = dict(layers=-1, progress=False)
    (states,) = collect(model, tokens, "resid_post", **options).tensors.values()
    weights = effects.interpolate(states, tokens)
    if config.family in TOKEN_DEPENDENT:
        per_cell = config.checks["representation"]["per_cell"]
        observations = max_observations(model, family)
        options = dict(layer=-1, observations=observations, per_cell=per_cell, seed=seed)
        fitted = read_probe_states(model, family, **options)
        projection = project_on_token_simplices(states.flatten(0, 1), tokens.flatten(), fitted)
        weights = projection.fit_weights().view(weights.shape)
    return {"weights": weights, "posterior": retrieval(family.with_major_tasks(), tokens).posterior}


def check_checkpoints(
    config: FamilyConfig, run: Run, family: Any, seed: int, progress: bool | None
) -> list[dict[str, Any]]:
    """Compute the KL to every reference and the share of novel tasks at every checkpoint."""
    sizes = config.checks["checkpoints"]
    options = dict(length=config.length, sequences=sizes["sequences"], seed=seed)
    references = ReferencePredictions.compute(family, **options)
    records = []
    for step in progress_bar(run.steps, "checkpoints", progress=progress):
        model = run.model(step)
        result = references.compare(model)
        effects = task_effects(model, family, per_cell=sizes["per_cell"], seed=seed)
        options = dict(tasks=sizes["tasks"], sequences=sizes["sequences_per_task"], null=2)
        novel = novel_tasks(model, family, effects=effects, seed=seed, **options)
        kl = {s: {r: result.mean[s, r] for r in result.references} for s in result.splits}
        log_ratio = {split: result.log_ratio(split) for split in result.splits}
        record = {"step": step, "kl": kl, "log_ratio": log_ratio, "share": novel.share}
        record |= {"share_interval": list(novel.interval), "null_share": novel.null}
        records.append(record)
    return records


def _check_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
