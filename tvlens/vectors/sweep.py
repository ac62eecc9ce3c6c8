"""A vector at every layer in turn: the same prompts, many layers, next to no repeated work."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..patching.comparison import compare
from ..patching.engines import run_sweep
from ..patching.metrics import Metric
from ..tasks import Prompt
from .vector import Mode, TaskVector, written


def layer_sweep(
    model: Any,
    vector: TaskVector,
    prompts: Sequence[Prompt],
    *,
    mode: Mode | None = None,
    batch_tokens: int = 256,
    progress: bool = False,
) -> Float[Tensor, "prompt layer first_full"]:
    """Whether the model answers with the vector written at each layer: first token, whole answer.

    Cost: one forward of the prompts, and for every layer and prompt the answer's own tokens from
    that layer up; the patching engine shares the rest.

    Raises:
        TvlensError: a prompt without an answer.
    """
    bare = next((prompt for prompt in prompts if not prompt.answer), None)
    if bare is not None:
        raise TvlensError(f"prompt {bare.text!r} was built without its answer")
    right = torch.zeros(len(prompts), len(vector.values), 2)
    for length in sorted({len(prompt.answer) for prompt in prompts}):
        members = [i for i, prompt in enumerate(prompts) if len(prompt.answer) == length]
        alike = [prompts[i] for i in members]
        right[members] = _of_one_length(model, vector, alike, mode, batch_tokens, progress)
    return right


def _of_one_length(
    model: Any,
    vector: TaskVector,
    prompts: Sequence[Prompt],
    mode: Mode | None,
    batch_tokens: int,
    progress: bool,
) -> Float[Tensor, "prompt layer first_full"]:
    """As above, for answers of one length: the delimiter then stands equally far from each end."""
    answers = torch.tensor([prompt.answer for prompt in prompts])
    compared = compare(
        model,
        vector,
        [prompt.answered() for prompt in prompts],
        site=vector.site,
        metric={"first": _right(answers, 1), "full": _right(answers, answers.shape[1])},
        layers="all",
        heads=None,
        positions=-answers.shape[1],
        seed=0,
    )
    cells = compared.grid.cells
    parts = [_written(compared.own(c), vector.values[c.layer], mode or vector.mode) for c in cells]
    found = run_sweep(model, compared, cells, parts, batch_tokens=batch_tokens, progress=progress)
    return rearrange(found.values, "metric layer prompt -> prompt layer metric").cpu()


def _written(
    own: Float[Tensor, "prompt d_model"], value: Float[Tensor, " d_model"], mode: Mode
) -> Float[Tensor, "prompt d_model"]:
    return written(own, value.to(own), mode)


def _right(answers: Tensor, count: int) -> Metric:
    """1 where the first `count` tokens of an answer are the likeliest ones, else 0."""

    def metric(logits: Float[Tensor, "prompt pos vocab"]) -> Float[Tensor, " prompt"]:
        wanted = answers[:, :count].to(logits.device)
        return (logits[:, :count].argmax(-1) == wanted).all(1).float()

    metric.positions = range(-answers.shape[1], 0)  # type: ignore[attr-defined]
    return metric
