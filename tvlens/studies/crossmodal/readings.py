"""Looks into the model that the tables do not give: phases, heads, one prompt, the pictures."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...activations import collect
from ...patching import PatchResult, log_probability, patch
from ...tasks import Prompt, Task, Template
from ...vectors.conditions import zero_shot
from ...vectors.logit_lens import Phases, phases
from .image_tasks import task_words
from .result import TaskResult
from .seeded import Seeded
from .sources import few_shot


def phases_of(model: Any, first: Seeded, modality: str, *, count: int = 8) -> Phases:
    """Few-shot prompts of all tasks in one modality, read layer by layer."""
    prompts, words = [], []
    for train, _, test in first.parts.values():
        some = test.subset(range(min(count, len(test))))
        prompts += few_shot(model, first.draws, train, some, shown=modality, asked=modality)
        about = task_words(train)
        words += [{"input": (x,), "task": about, "answer": (y,)} for x, y in some]
    return phases(model, prompts, words)


def heads_of(
    model: Any, first: Seeded, results: Mapping[str, TaskResult], *, count: int = 8
) -> PatchResult:
    """Every head's output at the last token: from few-shot words into the bare picture."""
    name = max(results, key=lambda n: results[n].shares["image"]["other_few_shot"].first)
    train, select, _ = first.parts[name]
    some = select.subset(range(min(count, len(select))))
    clean = few_shot(model, first.draws, train, some, shown="text", asked="image")
    bare = zero_shot(model, Template.restore(first.draws.template), some, "image")
    right = log_probability([prompt.answer[0] for prompt in clean])
    return patch(model, clean, bare, site="z", positions=-1, metric=right)


def reading_of(model: Any, first: Seeded) -> tuple[Prompt, list[str], Float[Tensor, " pos"]]:
    """A prompt with images, its tokens, and the cosine of their states with the text vector.

    States and vector are centered on the mean state of the prompt.
    """
    name, (train, _, test) = next(iter(first.parts.items()))
    (prompt,) = few_shot(model, first.draws, train, test.subset([0]), shown="image", asked="image")
    layer = first.layers["text to image"]
    found = collect(model, [prompt], "resid_post", layers=layer, progress=False)
    states = found.stack("resid_post")[0, 0]
    centre = states.mean(0)
    toward = first.vectors[name]["text"].values[layer].to(states) - centre
    words = [model.tokenizer.decode([token]) for token in prompt.tokens]
    return prompt, words, torch.cosine_similarity(states - centre, toward[None], dim=-1)


def gallery_of(task: Task, *, count: int = 12) -> list[tuple[str, bytes]]:
    """Some of a task's inputs with their pictures, small."""
    return [(x, task.shown((x, y), "image")[0].render_thumbnail()) for x, y in task.pairs[:count]]
