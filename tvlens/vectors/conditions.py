"""What vectors are written into and held against: bare queries, chance, a constant answer."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..models import reader
from ..tasks import Modality, Pair, Prompt, Task, Template, build


def zero_shot(
    model: Any, template: Template, task: Task, modality: Modality, *, instruction: str = ""
) -> list[Prompt]:
    """Every item asked by itself, as a text or as a picture, perhaps behind an instruction."""
    return [
        build(reader(model), template, [], *task.shown(pair, modality), instruction=instruction)
        for pair in task
    ]


def random_like(
    values: Float[Tensor, " d_model"], rng: np.random.Generator, *, count: int
) -> list[Float[Tensor, " d_model"]]:
    """Directions drawn uniformly from the sphere of the vector's own norm."""
    drawn = torch.tensor(rng.standard_normal((count, len(values)))).to(values)
    return list(drawn / drawn.norm(dim=-1, keepdim=True) * values.norm())


def most_common(examples: Sequence[Pair], test: Task) -> Float[np.ndarray, " item"]:
    """Always answering with the examples' most common label: what a constant would score."""
    label, _ = Counter(y for _, y in examples).most_common(1)[0]
    return np.array([float(y == label) for _, y in test])
