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
from .comparison import Comparison, Prompts, compare
from .engines import run_sweep
from .metrics import Metric
from .result import PatchResult
from .source import observe
from .sweep import Cell, Choice, Positions


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
    """Estimate what `patch` would give, from gradients; arguments are the same.

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
            "the model was made under torch.inference_mode, so nothing has gradients: load it "
            "outside, or use patch"
        )
    # Under the caller's inference mode PyTorch would keep nothing for the backward pass.
    with torch.inference_mode(False), locked(model):
        return _attributed(
            model,
            clean,
            corrupted,
            steps=steps,
            refine=refine,
            site=site,
            metric=metric,
            layers=layers,
            heads=heads,
            positions=positions,
            seed=seed,
        )


def _attributed(
    model: Any, clean: Any, corrupted: Prompts, *, steps: int, refine: int, **choice: Any
) -> PatchResult:
    compared = compare(model, clean, corrupted, **choice)
    if steps > 1 and compared.clean is None:
        raise TvlensError("integrated gradients need clean prompts, not another source")
    if steps > 1 and not torch.equal(compared.clean.lengths, compared.base.prompts.lengths):
        raise TvlensError("integrated gradients need clean and corrupted prompts of equal lengths")
    baseline = compared.measure(compared.base.seen.logits)
    estimates = torch.stack([_estimates(model, compared, m, steps) for m in compared.metrics])
    values = baseline[:, None].to(estimates) + estimates
    if refine:
        size = estimates.abs().mean(-1).amax(0)
        top = size.topk(min(refine, len(size))).indices.tolist()
        cells = [compared.grid.cells[i] for i in top]
        parts = [compared.part(cell) for cell in cells]
        exact = run_sweep(model, compared, cells, parts, seed=choice["seed"])
        values[:, top] = exact.values.to(values)
    return compared.result(model, values, method="attribution", steps=steps, refined=refine)


def _estimates(
    model: Any, compared: Comparison, name: str, steps: int
) -> Float[Tensor, "cell batch"]:
    """First-order change of one metric under every cell, per example."""
    lengths = compared.base.prompts.lengths
    total: dict[int, Tensor] = {}
    for way in _embeddings(model, compared, steps):
        for layer, gradient in _gradients(model, compared, name, way).items():
            total[layer] = total.get(layer, 0) + gradient / steps

    def estimate(cell: Cell) -> Float[Tensor, " batch"]:
        own = compared.own(cell)
        change = compared.part(cell).to(own) - own
        return (change * cell.part(total[cell.layer], lengths)).flatten(1).sum(1)

    return torch.stack([estimate(cell) for cell in compared.grid.cells])


def _embeddings(model: Any, compared: Comparison, steps: int) -> list[Tensor | None]:
    """What enters the first block at each step; None for the corrupted prompts themselves."""
    if steps == 1:
        return [None]
    ends = [
        observe(model, prompts, component="resid_pre", layers=[0], reads=[-1]).activations[0]
        for prompts in (compared.base.prompts, compared.clean)
    ]
    return [torch.lerp(*ends, (i + 0.5) / steps) for i in range(steps)]


def _gradients(
    model: Any, compared: Comparison, name: str, entering: Tensor | None
) -> dict[int, Tensor]:
    """Gradient of one metric, summed over examples, at the swept sites."""
    prompts, site = compared.base.prompts, compared.grid.component
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], Tensor]:
        def require_grad(activation: Tensor) -> Tensor:
            # Where no weight asks for a gradient, the graph begins here.
            kept[layer] = activation if activation.requires_grad else activation.requires_grad_()
            return kept[layer]

        return require_grad

    def enter(activation: Tensor) -> Tensor:
        return activation if entering is None else entering.to(activation)

    hooks = [replace_at("blocks.0.hook_resid_pre", enter)]
    hooks += [replace_at(Site(site, l).hook(model), keep(l)) for l in compared.source.activations]
    hooks += [unembed_only(model, prompts.positions(compared.reads))]
    vocabulary = compared.base.vocabulary
    with torch.enable_grad(), with_hooks(model, hooks), restricted_vocabulary(model, vocabulary):
        logits = model(prompts.inputs, **prompts.options(model))
        value = compared.measure(logits)[list(compared.metrics).index(name)].sum()
    if not value.requires_grad:
        raise TvlensError(
            "the metric has no gradient: counts such as rank and accuracy have none; take "
            "logit_difference, probability or log_probability, or use patch"
        )
    return dict(zip(kept, torch.autograd.grad(value, list(kept.values())), strict=True))
