"""`patch`: exact activation patching over layers, heads and positions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import TvlensError
from ..models.families import weight_dtype
from ..sites import Site, SiteName
from .grid import Choice, Positions, SweptSites
from .metrics import Metric
from .result import PatchResult
from .setup import BaseRun, Prompts, prepare_patching
from .sweep import SweepOptions, run_sweep


def patch(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    *,
    site: SiteName | str | Site,
    metric: Metric | Mapping[str, Metric],
    layers: Choice = "all",
    heads: Choice = "all",
    positions: Positions = "auto",
    batch_tokens: int = 512,
    max_memory: float | None = None,
    verify: float = 0.01,
    seed: int = 0,
    progress: bool | None = None,
) -> PatchResult:
    """Run `corrupted` with single activations taken from `clean`, one patch at a time.

    Args:
        clean: as many prompts as `corrupted`; or another source: an activation cache, a
            `TaskVector`, "mean", "zero" or "resample" (all of `corrupted` itself).
        corrupted: text, texts, token lists, a tensor, padded or not, or a tokenizer's output
            with its attention mask. For noising, swap clean and corrupted. Where
            lengths differ, negative positions count from each prompt's end.
        site: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (or head_out), q, k, v, or
            pattern; at one layer: "blocks.5.hook_resid_pre" or `Site("resid_pre", 5)`.
        metric: from logits `[batch, pos, vocab]` to `[batch]`, or several of them by name.
        layers, heads, positions: "all" to sweep, numbers to sweep over these, one number, or None
            for all together. By default every position is swept on residual sites, and heads are
            patched at all positions together.
        batch_tokens: tokens per forward pass; halved if memory runs out.
        max_memory: estimated gigabytes that a pass may use in addition to the model and the two
            runs; passes become smaller accordingly, down to one patch.
        verify: share of the values, at least two, that full forward passes compute again. A
            difference beyond rounding restarts the sweep with a slower engine and warns; 0
            verifies nothing.
        seed: seed of resampling, and of the sample that is verified.

    Returns:
        The metric under every patch. `settings` name the engine, how many values were verified
        and their largest difference from full forwards, as a share of the largest logit.

    Cost: where the model allows tree attention, one pass from the patched layer up over the
    positions from the patched one on, shared by many patches; where it does not, whole prompts from
    the patched layer up; else one full forward per patch, in batches. Fast engines are verified
    against full forwards before use, once per model and component, which costs a few forwards.

    Raises:
        TvlensError: unknown site, layer, head or position; lengths that differ; equal prompts; a
            model in training mode; NaN in a metric or the wrong shape.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> clean, corrupted = ["Q: cat A:", "Q: dog A:"], ["Q: red A:", "Q: bus A:"]
        >>> metric = tv.logit_difference("a", "b")
        >>> result = tv.patch(model, clean, corrupted, site="head_out", positions=-1, metric=metric)
        >>> result.axes, result.effect.shape == (model.cfg.n_layers, model.cfg.n_heads)
        (('layer', 'head'), True)
    """
    options = SweepOptions(batch_tokens, verify, seed, progress)
    sites = SweptSites(site, layers, heads, positions)
    setup = prepare_patching(model, clean, corrupted, sites, metric=metric, seed=seed)
    if max_memory is not None:
        tokens = estimate_affordable_tokens(model, setup.base, max_memory)
        options = replace(options, batch_tokens=min(options.batch_tokens, tokens))
    patches = setup.grid.patches
    replacements = [setup.source_part(patch) for patch in patches]
    sweep = run_sweep(model, setup, patches, replacements, options)
    return setup.result(model, sweep.values, seed=seed, method="exact", **sweep.settings)


def estimate_affordable_tokens(model: Any, base: BaseRun, gigabytes: float) -> int:
    """Estimate the number of tokens per pass that fit into memory.

    States and their copies, the MLP's hidden units, scores and mask over all keys, and logits.
    """
    if not isinstance(gigabytes, int | float) or not gigabytes > 0:
        raise TvlensError(f"max_memory is a number of gigabytes above 0, not {gigabytes!r}")
    cfg = model.cfg
    keys = base.prompts.inputs.shape[1]
    logits = cfg.d_vocab if base.vocabulary is None else len(base.vocabulary)
    hidden = getattr(cfg, "d_mlp", None) or 4 * cfg.d_model
    numbers = 12 * cfg.d_model + 3 * hidden + 4 * cfg.n_heads * keys + 2 * logits
    size = weight_dtype(model).itemsize
    return max(1, int(gigabytes * 2**30 / (numbers * size)))
