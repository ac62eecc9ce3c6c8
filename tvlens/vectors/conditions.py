"""Conditions without a vector: zero-shot queries, random directions, a constant answer."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..models import processor_or_tokenizer
from ..tasks import Modality, Pair, Prompt, Task, Template, build
from ..tasks.image_tokens import tokenizer_of


def build_zero_shot(
    model: Any, template: Template, task: Task, modality: Modality, *, instruction: str = ""
) -> list[Prompt]:
    """Build zero-shot prompts of all items, as text or image, optionally after an instruction."""
    return [
        build(
            processor_or_tokenizer(model),
            template,
            [],
            *task.shown(pair, modality),
            instruction=instruction,
        )
        for pair in task
    ]


def draw_random_like(
    values: Float[Tensor, " d_model"], rng: np.random.Generator, *, count: int
) -> list[Float[Tensor, " d_model"]]:
    """Draw random directions of the vector's norm."""
    directions = torch.tensor(rng.standard_normal((count, len(values)))).to(values)
    return list(directions / directions.norm(dim=-1, keepdim=True) * values.norm())


def score_most_common(
    examples: Sequence[Hashable], answers: Sequence[Hashable]
) -> Float[np.ndarray, " item"]:
    """Score a constant answer: the most common label of `examples`."""
    constant, _ = Counter(examples).most_common(1)[0]
    return np.array([float(answer == constant) for answer in answers])


def score_constant_answer(
    tokenizer: Any, template: Template, examples: Sequence[Pair], prompts: Sequence[Prompt]
) -> Float[np.ndarray, "item first_full"]:
    """Score a constant answer by first token and by whole answer."""
    example_answers = [
        build(tokenizer_of(tokenizer), template, [], x, y).answer for x, y in examples
    ]
    answers = [prompt.answer for prompt in prompts]
    first = score_most_common([a[0] for a in example_answers], [a[0] for a in answers])
    return np.stack([first, score_most_common(example_answers, answers)], axis=-1)


def find_shared_first_token(tokenizer: Any, prompts: Sequence[Prompt]) -> str | None:
    """Return the text of the first token of all answers; None if they differ."""
    first = {prompt.answer[0] for prompt in prompts}
    if len(prompts) < 2 or len(first) > 1:
        return None
    text: str = tokenizer_of(tokenizer).decode(list(first))
    return text
