"""Verification of the fast engines: the same patches by full forwards, and the rounding allowed.

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
from .base_run import Base
from .full_forward import forward_examples
from .sweep import Cell

# From cells and their parts to logits `[cell, batch, position, vocab]`.
Forward = Callable[[Sequence[Cell], Sequence[Tensor]], Tensor]

# How far an engine may differ from a full forward, in units of what rounding does to the logits.
# Half precision is summed in float32, so that the rounding of results, which is measured, is all
# there is; in float32 the order of summation adds to it (at most 1.3 units on 40 architectures).
_MARGIN = {torch.float16: 1, torch.bfloat16: 1}
_MARGIN_FLOAT32 = 8

# model -> (engine, component, dtype) -> the range in which an engine was found exact, or None
_verified: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

# model -> dtype -> rounding of logits, as a share of the largest one
_rounding: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Disagreement(Exception):
    """An engine differs from full forwards, or does not run on this model."""


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
    base: Base,
    groups: Sequence[Sequence[Cell]],
    tokens: int,
    reads: Sequence[int],
    *,
    engine: str,
    forward: Forward,
) -> None:
    """Compare an engine with full forwards on the largest and on the last group of a sweep.

    The activations written are the examples' own, negated: large changes, which no mask or
    position that is wrong survives. An answer holds for prompts up to this length, between these
    layers and up to this size of group; beyond these it is asked again.

    Args:
        groups: the groups of the sweep, in the order of layers.
        tokens: how many tokens the largest of them takes.

    Cost: two passes of the engine, and up to eight rows of full forwards.

    Raises:
        Disagreement: the engine is not exact on this model.
    """
    cells = [cell for group in groups for cell in group]
    layers = [cell.layer for cell in cells]
    wanted = Range(int(base.prompts.lengths.max()), min(layers), max(layers), tokens)
    key = (engine, cells[0].site.component, _dtype(model))
    known = _verified.setdefault(model, {})
    if key in known and known[key] is None:
        raise Disagreement("")  # which was said when it was found
    if key in known and known[key].covers(wanted):
        return
    largest = max(groups, key=len)
    for group in [largest] + ([groups[-1]] if groups[-1] is not largest else []):
        _verify_group(model, base, group, reads, forward)
    known[key] = wanted


def mark_inexact(model: Any, engine: str, component: str) -> None:
    """Remember that an engine is not exact for a component of a model: it is not tried again."""
    _verified.setdefault(model, {})[engine, component, _dtype(model)] = None


def _verify_group(
    model: Any, base: Base, group: Sequence[Cell], reads: Sequence[int], forward: Forward
) -> None:
    seen = base.seen
    parts = [-cell.part(seen.activations[cell.layer], seen.lengths) for cell in group]
    try:
        logits = forward(group, parts)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        if "memory" in str(error).lower():
            raise
        message = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise Disagreement(message) from error
    chosen = np.unique(np.linspace(0, len(group) - 1, 4).round().astype(int)).tolist()
    examples = [i % len(base.prompts) for i in range(len(chosen))]
    compare_examples(
        model,
        base,
        [group[i] for i in chosen],
        [parts[i] for i in chosen],
        examples,
        logits[chosen, examples],
        reads,
    )


def compare_examples(
    model: Any,
    base: Base,
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    examples: Sequence[int],
    logits: Float[Tensor, "cell position vocab"],
    reads: Sequence[int],
    *,
    batch_size: int = 8,
) -> float:
    """The largest difference of an engine's logits from full forwards, as a share of the largest.

    Args:
        cells, parts, examples: patches, what they write, and the prompt of each that is compared.
        logits: the engine's, of these patches and prompts, for the vocabulary of the base run.

    Raises:
        Disagreement: the difference is more than rounding.
    """
    unit = rounding(model, base, reads)
    allowed = unit * _MARGIN.get(_dtype(model)[0], _MARGIN_FLOAT32)
    largest = 0.0
    for start in range(0, len(cells), batch_size):
        part = slice(start, start + batch_size)
        # All logits, though few are compared: rounding is in proportion to the largest.
        true = forward_examples(
            model, base.prompts, cells[part], parts[part], examples[part], reads
        ).float()
        scale = _largest_finite(true, dim=(1, 2))
        if base.vocabulary is not None:
            true = true[..., list(base.vocabulary)]
        gaps = _differences(logits[part].to(true), true).amax((1, 2)) / scale
        worst = int(gaps.argmax())
        largest = max(largest, float(gaps[worst]))
        if not largest <= allowed:
            raise Disagreement(
                f"{cells[start + worst].site} differs by {largest:.1e} of the largest logit, "
                f"rounding by {unit:.1e}"
            )
    return largest


def rounding(model: Any, base: Base, reads: Sequence[int]) -> float:
    """What rounding does to the logits of full forwards, as a share of the largest logit.

    The larger of two measurements on up to four of the prompts: full forwards of other batch
    shapes; and full forwards in which the residual stream before every block is moved by random
    half units in the last place of its dtype, as if it had been rounded in another way.
    Kernels that do not depend on the batch's shape agree to the last bit, so that the first alone
    would forbid any other order of summation.

    Cost: four forwards of up to four prompts, once per model, dtype and device.
    """
    known = _rounding.setdefault(model, {})
    key = _dtype(model)
    if key not in known:
        measured = max(_measure_rounding(model, base, reads), torch.finfo(key[0]).eps)
        if not math.isfinite(measured):  # logits that are NaN, or infinite in one run only
            return torch.finfo(key[0]).eps
        known[key] = measured
    return known[key]


def _measure_rounding(model: Any, base: Base, reads: Sequence[int]) -> float:
    prompts = base.prompts
    if not prompts.processor_outputs:
        prompts = Batch(prompts.inputs[:4], prompts.lengths[:4])
    at = prompts.positions(list(reads))
    plain = logits_at(model, prompts, at).float()
    others = [logits_at(model, prompts, at, hooks=_noise(model, seed)) for seed in (0, 1)]
    if not prompts.processor_outputs and not prompts.inputs.is_floating_point():
        longer = torch.nn.functional.pad(prompts.inputs.repeat(2, 1), (0, _padding(model, prompts)))
        wide = Batch(longer, prompts.lengths.repeat(2))
        others.append(logits_at(model, wide, at.repeat(2, 1))[: len(at)])
    scale = _largest_finite(plain)
    return max(float(_differences(other.float(), plain).max() / scale) for other in others)


def _largest_finite(logits: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """The largest finite size of a logit."""
    sizes = logits.abs().nan_to_num(0, posinf=0)
    return (sizes.amax(dim) if dim else sizes.amax()).clamp_min(1e-6)


def _differences(logits: Tensor, true: Tensor) -> Tensor:
    """Distance of logits from the true ones.

    Zero between equal infinities, else infinity where one of them is not finite.
    """
    return (logits - true).abs().nan_to_num(torch.inf).masked_fill(logits == true, 0)


def _padding(model: Any, prompts: Batch) -> int:
    """How many positions may follow the prompts without being seen."""
    if family(model).is_bidirectional:
        return 0  # padding is masked there, but changes nothing that this would show
    context = model.cfg.n_ctx or prompts.inputs.shape[1]
    return max(0, min(5, context - prompts.inputs.shape[1]))


def _noise(model: Any, seed: int) -> list[Hook]:
    """Hooks that round the residual stream before every block in another way."""
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
