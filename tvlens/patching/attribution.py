"""`attribute`: gradient estimates of every patch in a few passes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..integers import as_integer
from ..models.forward import check_model
from ..models.hooks import locked, replace_at, restricted_vocabulary, unembed_only, with_hooks
from ..sites import Site, SiteName
from .grid import Choice, Patch, Positions, SweptSites
from .metrics import Metric
from .result import PatchResult
from .setup import PatchingSetup, Prompts, prepare_patching, run_source
from .sweep import SweepOptions, run_sweep


def attribute(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    *,
    site: SiteName | str | Site,
    metric: Metric | Mapping[str, Metric],
    layers: Choice = "all",
    heads: Choice = "all",
    positions: Positions = "auto",
    steps: int = 1,
    refine: int = 0,
    seed: int = 0,
) -> PatchResult:
    """Estimate the results of `patch` from gradients.

    Args:
        steps: 1 for attribution patching: (clean - corrupted) times the gradient on the corrupted
            run (Nanda 2023; Syed et al. 2023). More for integrated gradients: the gradient is
            averaged at the midpoints of `steps` pieces of the straight way between the two
            prompts' embeddings (Sundararajan et al. 2017; Hanna et al. 2024); `clean` must then be
            prompts.
        refine: replace this many of the largest estimates by exact values.

    Cost: two forwards, and a forward and a backward per step and metric; the memory of one
    backward pass over all of `corrupted`.

    Raises:
        TvlensError: as `patch`; steps below 1; steps above 1 without clean prompts.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> clean, corrupted = ["Q: cat A:", "Q: dog A:"], ["Q: red A:", "Q: bus A:"]
        >>> metric = tv.logit_difference("a", "b")
        >>> options = dict(site="head_out", positions=-1, metric=metric)
        >>> estimate = tv.attribute(model, clean, corrupted, **options)
        >>> exact = tv.patch(model, clean, corrupted, **options)
        >>> -1 <= exact.rank_correlation(estimate) <= 1
        True
    """
    check_model(model)
    steps = as_integer(steps, name="steps", minimum=1)
    refine = as_integer(refine, name="refine", minimum=0)
    if any(weight.is_inference() for weight in model.parameters()):
        raise TvlensError(
            "the model was created under torch.inference_mode and has no gradients: load it "
            "outside, or use patch"
        )
    # Under the caller's inference mode PyTorch would save nothing for the backward pass.
    with torch.inference_mode(False), locked(model):
        sites = SweptSites(site, layers, heads, positions)
        setup = prepare_patching(model, clean, corrupted, sites, metric=metric, seed=seed)
        return _estimate_effects(model, setup, steps=steps, refine=refine, seed=seed)


def _estimate_effects(
    model: Any, setup: PatchingSetup, *, steps: int, refine: int, seed: int
) -> PatchResult:
    if steps > 1 and setup.clean is None:
        raise TvlensError("integrated gradients need clean prompts, not another source")
    if steps > 1 and not torch.equal(setup.clean.lengths, setup.base.prompts.lengths):
        raise TvlensError("integrated gradients need clean and corrupted prompts of equal lengths")
    baseline = setup.measure(setup.base.site_activations.logits)
    estimates = torch.stack([_estimate_changes(model, setup, m, steps) for m in setup.metrics])
    values = baseline[:, None].to(estimates) + estimates
    if refine:
        size = estimates.abs().mean(-1).amax(0)
        top = size.topk(min(refine, len(size))).indices.tolist()
        patches = [setup.grid.patches[i] for i in top]
        sources = [setup.source_part(patch) for patch in patches]
        exact = run_sweep(model, setup, patches, sources, SweepOptions(seed=seed))
        values[:, top] = exact.values.to(values)
    return setup.result(model, values, method="attribution", steps=steps, refined=refine)


def _estimate_changes(
    model: Any, setup: PatchingSetup, name: str, steps: int
) -> Float[Tensor, "patch batch"]:
    """Compute the first-order change of one metric under every patch, per example."""
    lengths = setup.base.prompts.lengths
    total: dict[int, Tensor] = {}
    for embedding in _compute_embeddings(model, setup, steps):
        for layer, gradient in _compute_gradients(model, setup, name, embedding).items():
            total[layer] = total.get(layer, 0) + gradient / steps

    def estimate(patch: Patch) -> Float[Tensor, " batch"]:
        base = setup.base_part(patch)
        change = setup.source_part(patch).to(base) - base
        return (change * patch.select(total[patch.layer], lengths)).flatten(1).sum(1)

    return torch.stack([estimate(patch) for patch in setup.grid.patches])


def _compute_embeddings(model: Any, setup: PatchingSetup, steps: int) -> list[Tensor | None]:
    """Compute the first block's input at each step; None for the corrupted prompts."""
    if steps == 1:
        return [None]
    start, end = (
        run_source(model, prompts, component="resid_pre", layers=[0], positions=[-1]).activations[0]
        for prompts in (setup.base.prompts, setup.clean)
    )
    return [torch.lerp(start, end, (i + 0.5) / steps) for i in range(steps)]


def _compute_gradients(
    model: Any, setup: PatchingSetup, name: str, embedding: Tensor | None
) -> dict[int, Tensor]:
    """Compute the gradient of one metric, summed over examples, at the swept sites."""
    prompts, site = setup.base.prompts, setup.grid.component
    activations: dict[int, Tensor] = {}

    def record(layer: int) -> Callable[[Tensor], Tensor]:
        def require_grad(activation: Tensor) -> Tensor:
            # Where no weight asks for a gradient, the graph begins here.
            activations[layer] = (
                activation if activation.requires_grad else activation.requires_grad_()
            )
            return activations[layer]

        return require_grad

    def enter(activation: Tensor) -> Tensor:
        return activation if embedding is None else embedding.to(activation)

    hooks = [replace_at("blocks.0.hook_resid_pre", enter)]
    hooks += [replace_at(Site(site, l).hook(model), record(l)) for l in setup.source.activations]
    hooks += [unembed_only(model, prompts.positions(setup.base.positions))]
    vocabulary = setup.base.vocabulary
    with torch.enable_grad(), with_hooks(model, hooks), restricted_vocabulary(model, vocabulary):
        logits = model(prompts.inputs, **prompts.options(model))
        value = setup.measure(logits)[list(setup.metrics).index(name)].sum()
    if not value.requires_grad:
        raise TvlensError(
            "the metric has no gradient: counts such as rank and accuracy have none; use "
            "logit_difference, probability or log_probability, or use patch"
        )
    return dict(
        zip(activations, torch.autograd.grad(value, list(activations.values())), strict=True)
    )
