"""Function vectors: the summed outputs of the heads with the largest indirect effects.

Source: Todd et al. 2024, "Function Vectors in Large Language Models", section 2.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..activations import collect
from ..models.forward import Batch, logits_at, run
from ..models.hooks import read_at, replace_at
from ..patching import PatchResult, patch, probability
from ..sites import Site
from ..tasks import Prompt, beginning_token, contexts, shuffled_labels
from .methods import Extraction, ExtractionContext

Heads = Sequence[tuple[int, int]]


def function(context: ExtractionContext, *, heads: int = 10, trials: int = 25) -> Extraction:
    """Sum the mean outputs of the heads with the largest effects, to be added after any block.

    Heads are ranked by their causal indirect effect: how much more likely the right answer gets in
    a prompt with shuffled labels when the head's output at the last token is its mean over prompts
    that the model answers rightly.

    Args:
        heads: number of heads that are summed.
        trials: prompts with shuffled labels behind the effects.

    Cost: two forwards of the contexts, and an exact sweep over all heads at the last position.
    """
    correct = select_correct(context.model, context.prompts())
    means = compute_mean_head_outputs(context, correct)
    effects = measure_indirect_effects(context, means, trials=trials)
    width = means.shape[1]
    order = effects.effect.flatten().topk(min(heads, effects.effect.numel())).indices.tolist()
    strongest = [(i // width, i % width) for i in order]
    vector = sum_heads(context.model, means, strongest)
    metadata = {
        "mode": "add",
        "heads": [list(head) for head in strongest],
        "effects": effects.effect.tolist(),
        # A single trial has no interval.
        "effects_interval": effects.interval.tolist() if trials > 1 else None,
        "trials": trials,
        "answered": len(correct),
    }
    return vector.expand(context.model.cfg.n_layers, -1).clone(), metadata


def select_correct(model: Any, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Select the prompts whose first answer token is the most likely one; all if none is."""
    batch = Batch.of(model, prompts)
    best = logits_at(model, batch, batch.positions(-1))[:, 0].argmax(-1).tolist()
    correct = [p for p, token in zip(prompts, best, strict=True) if p.answer[0] == token]
    return correct or list(prompts)


def compute_mean_head_outputs(
    context: ExtractionContext, prompts: Sequence[Prompt]
) -> Float[Tensor, "layer head d_head"]:
    """Compute every head's mean output at the last token, before the output matrix."""
    activations = collect(
        context.model,
        prompts,
        "z",
        positions=-1,
        batch_size=context.batch_size,
        progress=context.progress,
    )
    return activations.stack("z")[:, :, 0].mean(1)


def measure_indirect_effects(
    context: ExtractionContext, means: Float[Tensor, "layer head d_head"], *, trials: int = 25
) -> PatchResult:
    """Compute each head's effect on the right answer's probability under shuffled labels."""
    shots = len(context.contexts[0][0])
    # Other contexts than those that the means come from.
    draws = contexts(context.task, shots=shots, count=trials, seed=context.seed + 1)
    labels = [y for _, y in context.task]
    prompts = [
        context.prompt(shuffled_labels(demonstrations, labels=labels, seed=i), query)
        for i, (demonstrations, query) in enumerate(draws)
    ]
    source = {Site("z", l).hook(context.model): mean[None, None] for l, mean in enumerate(means)}
    return patch(
        context.model,
        source,
        prompts,
        site="z",
        positions=-1,
        metric=probability([prompt.answer[0] for prompt in prompts]),
        progress=context.progress,
    )


def sum_heads(
    model: Any, outputs: Float[Tensor, "layer head d_head"], heads: Heads
) -> Float[Tensor, " d_model"]:
    """Compute the sum that chosen heads add to the residual stream, given all outputs.

    The model's own attention layers write it, with and without these heads: that is the sum of
    z @ W_O over them, and right also where a norm or a factor follows.
    """
    chosen = torch.zeros(outputs.shape[:2], dtype=torch.bool)
    for layer, head in heads:
        chosen[layer, head] = True
    outputs_of_layers = _compute_attention_outputs(model, outputs, without=chosen)
    return (outputs_of_layers[:, 0] - outputs_of_layers[:, 1]).sum(0)


def _compute_attention_outputs(
    model: Any, outputs: Tensor, *, without: Bool[Tensor, "layer head"]
) -> Float[Tensor, "layer two d_model"]:
    """Compute every attention layer's output, given all heads' outputs and without some of them."""
    rows = torch.stack([outputs, outputs.masked_fill(without[..., None].to(outputs.device), 0)], 1)
    attention_outputs: dict[int, Tensor] = {}

    def first_position(output: Tensor) -> Tensor:
        return output[:, 0].float().cpu()

    layers = range(len(outputs))
    hooks = [
        replace_at(Site("z", l).hook(model), lambda z, l=l: rows[l][:, None].to(z)) for l in layers
    ]
    hooks += [
        read_at(Site("attn_out", l).hook(model), attention_outputs, l, first_position)
        for l in layers
    ]
    run(model, Batch.of(model, [[beginning_token(model.tokenizer)]] * 2), hooks=hooks)
    return torch.stack([attention_outputs[l] for l in layers])
