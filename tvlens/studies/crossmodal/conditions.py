"""What is asked under which condition, and what of it is right."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...tasks import Prompt, Task, Template
from ...vectors import Row, TaskVector, score
from ...vectors.conditions import constant_answer, random_like, zero_shot
from ...vectors.scoring import layer_sweep, lenient
from .sources import CHOSEN, Draws, few_shot, others

# How an answer counts as right: its first token, all of it, or as the paper does.
MEASURES = ("first", "exact", "lenient")

# Condition -> what a reader sees; {same} and {other} are modalities of the demonstrations.
CONDITIONS = {
    "no_context": "no context",
    "same_few_shot": "few-shot, {same}s",
    "other_few_shot": "few-shot, {other}s (xBase)",
    "same_patch": "vector of {same}s (patch)",
    "other_patch": "vector of {other}s (xPatch)",
    "instruction": "instruction in the prompt",
    "instruction_patch": "vector of the instruction",
    "ensemble_patch": "vector of words and instruction",
    "one_set_patch": "vector of one set of words",
    "language_model_patch": "vector of the language model",
    "random": "random vector",
    "wrong_task": "wrong task's vector",
    "shuffled_patch": "vector of shuffled labels",
    "shuffled_few_shot": "few-shot, shuffled labels",
    "most_common": "most common answer",
}

MODALITIES = ("image", "text")
OTHER = {"image": "text", "text": "image"}
_RANDOM = 3

Outcome = Float[Tensor, "item repeat measure"]


def sweeps(
    model: Any, vectors: Mapping[str, TaskVector], select: Task, template: str
) -> dict[str, Float[Tensor, "item layer"]]:
    """First-token accuracy of every source's vector at every layer, as "source to query"."""
    found = {}
    for asked in MODALITIES:
        prompts = zero_shot(model, Template.restore(template), select, asked)
        for source in CHOSEN:
            if source in vectors:
                found[f"{source} to {asked}"] = layer_sweep(model, vectors[source], prompts)[..., 0]
    return found


def outcomes(
    model: Any,
    name: str,
    vectors: Mapping[str, Mapping[str, TaskVector]],
    parts: tuple[Task, Task, Task],
    layers: Mapping[str, int],
    draws: Draws,
) -> dict[str, dict[str, Outcome]]:
    """Every condition on the test part, by modality of the query."""
    train, _, test = parts
    found = {}
    for asked in MODALITIES:
        bare = zero_shot(model, Template.restore(draws.template), test, asked)
        rows = prompted(model, asked, train, test, bare, draws)
        rows |= patched(asked, vectors, name, bare, layers, draws.seed)
        found[asked] = right(model, rows, len(test))
        form = Template.restore(draws.template)
        hits = torch.tensor(constant_answer(model.tokenizer, form, train.pairs, bare))
        # Leniently a constant is right where its first token is.
        found[asked]["most_common"] = hits[:, None, [0, 1, 0]]
    return found


def prompted(
    model: Any, asked: str, train: Task, test: Task, bare: Sequence[Prompt], draws: Draws
) -> dict[str, list[Row]]:
    """The conditions in which the prompt alone tells the task."""
    other = OTHER[asked]
    shown = {
        "no_context": bare,
        "same_few_shot": few_shot(model, draws, train, test, shown=asked, asked=asked),
        "other_few_shot": few_shot(model, draws, train, test, shown=other, asked=asked),
        "shuffled_few_shot": few_shot(
            model, draws, train, test, shown=other, asked=asked, shuffle=True
        ),
    }
    if test.instruction:
        told = zero_shot(
            model, Template.restore(draws.template), test, asked, instruction=test.instruction
        )
        shown["instruction"] = told
    return {key: [Row(prompt) for prompt in prompts] for key, prompts in shown.items()}


def patched(
    asked: str,
    vectors: Mapping[str, Mapping[str, TaskVector]],
    name: str,
    bare: Sequence[Prompt],
    layers: Mapping[str, int],
    seed: int,
) -> dict[str, list[Row]]:
    """The conditions in which a vector alone tells the task: item by item, repeat by repeat."""
    own, across = vectors[name], layers[f"{OTHER[asked]} to {asked}"]
    words = layers[f"text to {asked}"]
    value = own[OTHER[asked]].values[across]
    written: dict[str, tuple[Any, Any]] = {
        "same_patch": (layers[f"{asked} to {asked}"], [own[asked]]),
        "other_patch": (across, [own[OTHER[asked]]]),
        "instruction_patch": (layers.get(f"instruction to {asked}"), [own.get("instruction")]),
        "ensemble_patch": (layers.get(f"ensemble to {asked}"), [own.get("ensemble")]),
        "one_set_patch": (words, [own["one set"]]),
        "language_model_patch": (words, [own.get("language model")]),
        "wrong_task": (across, others(vectors, name, OTHER[asked])),
        "shuffled_patch": (words, [own["shuffled"]]),
    }
    rows = {
        key: [Row(prompt, layer, one.values[layer]) for prompt in bare for one in some]
        for key, (layer, some) in written.items()
        if some and some[0] is not None
    }
    drawn = random_like(value, np.random.default_rng(seed), count=_RANDOM)
    rows["random"] = [Row(prompt, across, one) for prompt in bare for one in drawn]
    return rows


def right(model: Any, rows: Mapping[str, Sequence[Row]], items: int) -> dict[str, Outcome]:
    """Which rows are right, by every measure; all conditions ride in the same batches."""
    every = [row for part in rows.values() for row in part]
    found = score(model, every)
    spoken = model.tokenizer.batch_decode(found.predicted[:, None].tolist())
    whole = model.tokenizer.batch_decode([list(row.prompt.answer) for row in every])
    alike = torch.tensor([lenient(*pair) for pair in zip(spoken, whole, strict=True)])
    measured = torch.stack([found.first, found.full, alike], dim=-1).double()
    parts = measured.split([len(part) for part in rows.values()])
    return {
        key: rearrange(part, "(item row) measure -> item row measure", item=items)
        for key, part in zip(rows, parts, strict=True)
    }
