"""What is measured in a trained model of a study of latent tasks: at its end and on its way."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

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
from ...saved import write_tensors
from ...training import Run
from .plan import BY_TOKEN, Plan

# Sequences that the page shows token by token, one for each of the first major tasks.
_SHOWN = 3


def check(plan: Plan, run: Run, family: Any, seed: int, folder: Path) -> None:
    """Every check of the last model, each saved when it is done."""
    model, sizes = run.model(), plan.checks
    for layer in range(plan.layers):
        found = representation(model, family, layer=layer, seed=seed, **sizes["representation"])
        found.save(_at(folder, f"representation-{layer}"))
        options = dict(layer=layer, effects=found.effects, seed=seed)
        options["per_cell"] = sizes["representation"]["per_cell"]
        written = injection(model, family, **options, **sizes["injection"])
        written.save(_at(folder, f"injection-{layer}"))
    options = dict(effects=found.effects, seed=seed)
    written.save(_at(folder, "injection"))
    behaviour(model, family, seed=seed, **sizes["behaviour"]).save(_at(folder, "behaviour"))
    ablation(model, family, **options, **sizes["ablation"]).save(_at(folder, "ablation"))
    learnt = learner_subspace(model, family, **options, **sizes["learning"])
    learnt.save(_at(folder, "learning"))
    explained = statistics_regression(
        model, family, learnt.subspace, seed=seed, **sizes["explained"]
    )
    explained.save(_at(folder, "explained"))
    new = novel_tasks(model, family, **options, **sizes["novel_tasks"])
    new.save(_at(folder, "novel_tasks"))
    _save_example(plan, model, family, found.effects, seed, folder)


def _save_example(
    plan: Plan, model: Any, family: Any, effects: Effects, seed: int, folder: Path
) -> None:
    """Weights and posterior at every position of a few sequences."""
    example: dict[str, Tensor] = {}
    if plan.family != "regression":
        tasks = torch.arange(min(_SHOWN, family.majors))
        tokens = family.sample_tasks(tasks, plan.length, seed=seed).tokens
        example = {"tokens": tokens, **_followed(plan, model, family, effects, tokens, seed)}
    write_tensors(_at(folder, "example"), example)


def _followed(
    plan: Plan,
    model: Any,
    family: Any,
    effects: Effects,
    tokens: Int[Tensor, "n length"],
    seed: int,
) -> dict[str, Float[Tensor, "n length major"]]:
    """Weights by the task vectors that all tokens share.

    By each token's own vectors where the answer depends on the token.
    """
    options = dict(layers=-1, progress=False)
    (h,) = collect(model, tokens, "resid_post", **options).tensors.values()
    weights = effects.interpolate(h, tokens)
    if plan.family in BY_TOKEN:
        per_cell = plan.checks["representation"]["per_cell"]
        observations = max_observations(model, family)
        options = dict(layer=-1, observations=observations, per_cell=per_cell, seed=seed)
        fitted = read_probe_states(model, family, **options)
        projection = project_on_token_simplices(h.flatten(0, 1), tokens.flatten(), fitted)
        weights = projection.fit_weights().view(weights.shape)
    return {"weights": weights, "posterior": retrieval(family.with_major_tasks(), tokens).posterior}


def over_steps(
    plan: Plan, run: Run, family: Any, seed: int, progress: bool
) -> list[dict[str, Any]]:
    """KL to every reference and the OOD share, at every checkpoint."""
    sizes = plan.checks["over_steps"]
    options = dict(length=plan.length, sequences=sizes["sequences"], seed=seed)
    references = ReferencePredictions.compute(family, **options)
    records = []
    for step in tqdm(run.steps, "checkpoints", disable=not progress):
        model = run.model(step)
        found = references.compare(model)
        effects = task_effects(model, family, per_cell=sizes["per_cell"], seed=seed)
        options = dict(tasks=sizes["tasks"], sequences=sizes["per_task"], null=2, seed=seed)
        new = novel_tasks(model, family, effects=effects, **options)
        kl = {s: {r: found.mean[s, r] for r in found.references} for s in found.splits}
        ratios = {split: found.log_ratio(split) for split in found.splits}
        record = {"step": step, "kl": kl, "ratio": ratios, "share": new.share}
        records.append(record | {"share_interval": list(new.interval), "chance": new.null})
    return records


def _at(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
