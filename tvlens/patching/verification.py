"""Verification of the fast engines against full forward passes, up to rounding.

An engine is verified twice. Before a model is first swept, it runs groups of patches as large as
those of the sweep, with activations far from the model's own, and is compared with full forwards
across these groups. After every sweep, a random sample of the sweep's own values is computed again
by full forwards.
"""

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.families import family, input_device, weight_dtype
from ..models.forward import Batch, logits_at
from ..models.hooks import Hook, replace_at
from .engines import PatchGroup, full_forward_of_examples
from .grid import Patch
from .setup import BaseRun

# From a group of patches to logits `[patch, batch, position, vocab]`.
Forward = Callable[[PatchGroup], Tensor]

# How far an engine may differ from a full forward, in units of what rounding does to the logits.
# Half precision is summed in float32, so that the rounding of results, which is measured, is all
# there is; in float32 the order of summation adds to it (at most 1.3 units on 40 architectures).
_MARGIN = {torch.float16: 1, torch.bfloat16: 1}
_MARGIN_FLOAT32 = 8

# model -> (engine, component, dtype) -> the range in which an engine was found exact, or None
_verified: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

# model -> dtype -> rounding of logits, as a share of the largest one
_rounding: weakref.WeakKeyDictionary[Any, dict[tuple, float]] = weakref.WeakKeyDictionary()


class Disagreement(Exception):
    """An engine differs from full forward passes, or does not run on this model."""


@dataclass(frozen=True)
class Range:
    """Inputs on which an engine was verified.

    Prompts up to `length`, layers from `lowest` to `highest`, groups of up to `tokens` tokens.
    """

    length: int
    lowest: int
    highest: int
    tokens: int

    def covers(self, other: "Range") -> bool:
        """Whether another range lies within this one."""
        return (
            other.length <= self.length
            and self.lowest <= other.lowest
            and other.highest <= self.highest
            and other.tokens <= self.tokens
        )


def verify_groups(
    model: Any,
    base: BaseRun,
    groups: Sequence[Sequence[Patch]],
    tokens: int,
    *,
    engine: str,
    forward: Forward,
) -> None:
    """Compare an engine with full forward passes on the largest and the last group of a sweep.

    The activations written are the examples' own, negated: large changes, which no mask or
    position that is wrong survives. An answer holds for prompts up to this length, between these
    layers and up to this size of group; beyond these it is asked again.

    Args:
        groups: the groups of the sweep, in the order of layers.
        tokens: number of tokens of the largest of them.

    Cost: two passes of the engine, and up to eight rows of full forwards.

    Raises:
        Disagreement: the engine is not exact on this model.
    """
    patches = [patch for group in groups for patch in group]
    layers = [patch.layer for patch in patches]
    needed = Range(int(base.prompts.lengths.max()), min(layers), max(layers), tokens)
    key = (engine, patches[0].site.component, _dtype(model))
    verified = _verified.setdefault(model, {})
    if key in verified and verified[key] is None:
        raise Disagreement("")  # the warning was given when it was detected
    if key in verified and verified[key].covers(needed):
        return
    largest = max(groups, key=len)
    for group in [largest] + ([groups[-1]] if groups[-1] is not largest else []):
        _verify_group(model, base, group, forward)
    verified[key] = needed


def mark_inexact(model: Any, engine: str, component: str) -> None:
    """Mark an engine as inexact for a component of a model, so that it is not tried again."""
    _verified.setdefault(model, {})[engine, component, _dtype(model)] = None


def _verify_group(model: Any, base: BaseRun, patches: Sequence[Patch], forward: Forward) -> None:
    site_activations = base.site_activations
    activations, lengths = site_activations.activations, site_activations.lengths
    replacements = [-patch.select(activations[patch.layer], lengths) for patch in patches]
    group = PatchGroup(patches, replacements)
    try:
        logits = forward(group)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        if "memory" in str(error).lower():
            raise
        message = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise Disagreement(message) from error
    chosen = np.unique(np.linspace(0, len(group) - 1, 4).round().astype(int)).tolist()
    examples = [i % len(base.prompts) for i in range(len(chosen))]
    compare_examples(model, base, group.take(chosen), examples, logits[chosen, examples])


def compare_examples(
    model: Any,
    base: BaseRun,
    group: PatchGroup,
    examples: Sequence[int],
    logits: Float[Tensor, "patch position vocab"],
    *,
    batch_size: int = 8,
) -> float:
    """Compute the largest difference of logits from full forward passes, relative to the largest.

    Args:
        group, examples: patches, and the prompt of each that is compared.
        logits: the engine's, of these patches and prompts, for the vocabulary of the base run.

    Raises:
        Disagreement: the difference is more than rounding.
    """
    unit = estimate_rounding(model, base)
    allowed = unit * _MARGIN.get(_dtype(model)[0], _MARGIN_FLOAT32)
    largest = 0.0
    for start in range(0, len(group), batch_size):
        part = range(start, min(start + batch_size, len(group)))
        # All logits, though few are compared: rounding is in proportion to the largest.
        true = full_forward_of_examples(
            model, base, group.take(part), [examples[i] for i in part]
        ).float()
        scale = _largest_finite(true, dim=(1, 2))
        if base.vocabulary is not None:
            true = true[..., list(base.vocabulary)]
        gaps = (
            _compute_differences(logits[part.start : part.stop].to(true), true).amax((1, 2)) / scale
        )
        worst = int(gaps.argmax())
        largest = max(largest, float(gaps[worst]))
        if not largest <= allowed:
            raise Disagreement(
                f"{group.patches[start + worst].site} differs by {largest:.1e} of the largest "
                f"logit, rounding by {unit:.1e}"
            )
    return largest


def estimate_rounding(model: Any, base: BaseRun) -> float:
    """Estimate the rounding error of the logits of full forward passes, relative to the largest.

    The larger of two measurements on up to four of the prompts: full forwards of other batch
    shapes; and full forwards in which the residual stream before every block is moved by random
    half units in the last place of its dtype, as if it had been rounded in another way.
    Kernels that do not depend on the batch's shape agree to the last bit, so that the first alone
    would forbid any other order of summation.

    Cost: four forwards of up to four prompts, once per model, dtype and device.
    """
    measured_before = _rounding.setdefault(model, {})
    key = _dtype(model)
    if key not in measured_before:
        measured = max(_measure_rounding(model, base), torch.finfo(key[0]).eps)
        if not math.isfinite(measured):  # logits that are NaN, or infinite in one run only
            return torch.finfo(key[0]).eps
        measured_before[key] = measured
    return measured_before[key]


def _measure_rounding(model: Any, base: BaseRun) -> float:
    prompts = base.prompts
    if not prompts.processor_outputs:
        prompts = Batch(prompts.inputs[:4], prompts.lengths[:4])
    absolute = prompts.positions(list(base.positions))
    plain = logits_at(model, prompts, absolute).float()
    others = [
        logits_at(model, prompts, absolute, hooks=_make_noise_hooks(model, seed)) for seed in (0, 1)
    ]
    if not prompts.processor_outputs and not prompts.inputs.is_floating_point():
        longer = torch.nn.functional.pad(
            prompts.inputs.repeat(2, 1), (0, _count_padding(model, prompts))
        )
        wide = Batch(longer, prompts.lengths.repeat(2))
        others.append(logits_at(model, wide, absolute.repeat(2, 1))[: len(absolute)])
    scale = _largest_finite(plain)
    return max(float(_compute_differences(other.float(), plain).max() / scale) for other in others)


def _largest_finite(logits: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """Return the largest finite absolute logit."""
    sizes = logits.abs().nan_to_num(0, posinf=0)
    return (sizes.amax(dim) if dim else sizes.amax()).clamp_min(1e-6)


def _compute_differences(logits: Tensor, true: Tensor) -> Tensor:
    """Compute the distance between logits and reference logits.

    Zero between equal infinities, else infinity where one of them is not finite.
    """
    return (logits - true).abs().nan_to_num(torch.inf).masked_fill(logits == true, 0)


def _count_padding(model: Any, prompts: Batch) -> int:
    """Count the positions that can follow the prompts without effect."""
    if family(model).is_bidirectional:
        return 0  # padding is masked there, but changes nothing that this would show
    context = model.cfg.n_ctx or prompts.inputs.shape[1]
    return max(0, min(5, context - prompts.inputs.shape[1]))


def _make_noise_hooks(model: Any, seed: int) -> list[Hook]:
    """Create hooks that perturb the residual stream before every block by rounding errors."""
    generator = torch.Generator().manual_seed(seed)

    def move(activation: Tensor) -> Tensor:
        signs = torch.randint(0, 2, activation.shape, generator=generator).to(activation.device)
        half_unit = torch.finfo(activation.dtype).eps / 2
        return (activation.float() * (1 + half_unit * (2 * signs - 1))).to(activation.dtype)

    return [
        replace_at(f"blocks.{layer}.hook_resid_pre", move) for layer in range(model.cfg.n_layers)
    ]


def _dtype(model: Any) -> tuple[torch.dtype, str]:
    return weight_dtype(model), input_device(model).type
