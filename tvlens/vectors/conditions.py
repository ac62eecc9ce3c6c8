"""What vectors are written into and held against: bare queries, chance, a constant answer."""

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


def zero_shot(
    model: Any, template: Template, task: Task, modality: Modality, *, instruction: str = ""
) -> list[Prompt]:
    """Every item asked by itself, as a text or as a picture, perhaps behind an instruction."""
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


def random_like(
    values: Float[Tensor, " d_model"], rng: np.random.Generator, *, count: int
) -> list[Float[Tensor, " d_model"]]:
    """Directions drawn uniformly from the sphere of the vector's own norm."""
    directions = torch.tensor(rng.standard_normal((count, len(values)))).to(values)
    return list(directions / directions.norm(dim=-1, keepdim=True) * values.norm())


def most_common(
    examples: Sequence[Hashable], answers: Sequence[Hashable]
) -> Float[np.ndarray, " item"]:
    """Always answering with what is most common among `examples`: what a constant would score."""
    constant, _ = Counter(examples).most_common(1)[0]
    return np.array([float(answer == constant) for answer in answers])


def constant_answer(
    tokenizer: Any, template: Template, examples: Sequence[Pair], prompts: Sequence[Prompt]
) -> Float[np.ndarray, "item first_full"]:
    """What a constant scores: the examples' most common first token, and whole answer."""
    example_answers = [
        build(tokenizer_of(tokenizer), template, [], x, y).answer for x, y in examples
    ]
    answers = [prompt.answer for prompt in prompts]
    first = most_common([a[0] for a in example_answers], [a[0] for a in answers])
    return np.stack([first, most_common(example_answers, answers)], axis=-1)


def shared_first_token(tokenizer: Any, prompts: Sequence[Prompt]) -> str | None:
    """The token with which every prompt's answer begins, as a text; None where they differ."""
    first = {prompt.answer[0] for prompt in prompts}
    if len(prompts) < 2 or len(first) > 1:
        return None
    return tokenizer_of(tokenizer).decode(list(first))
