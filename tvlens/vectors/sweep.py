"""Many writes into the same prompts, such as a vector at every layer, without repeated work."""

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
from ..sites import SiteName
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
    options = dict(batch_tokens=batch_tokens, progress=progress)
    writes = list(enumerate(vector.values))
    return score_writes(model, vector.site, writes, prompts, mode=mode or vector.mode, **options)


def score_writes(
    model: Any,
    site: SiteName | str,
    writes: Sequence[tuple[int, Float[Tensor, " d_model"]]],
    prompts: Sequence[Prompt],
    *,
    mode: Mode,
    batch_tokens: int = 256,
    progress: bool = False,
) -> Float[Tensor, "prompt write first_full"]:
    """Whether the model answers under each write, a layer and a vector: first token, whole answer.

    The vector is written at the query's delimiter. Cost: as `layer_sweep`, for every write.
    """
    right = torch.zeros(len(prompts), len(writes), 2)
    for length in sorted({len(prompt.answer) for prompt in prompts}):
        members = [i for i, prompt in enumerate(prompts) if len(prompt.answer) == length]
        alike = [prompts[i] for i in members]
        # With answers of one length the delimiter stands equally far from each end.
        right[members] = _score_one_length(model, site, writes, alike, mode, batch_tokens, progress)
    return right


def _score_one_length(
    model: Any,
    site: SiteName | str,
    writes: Sequence[tuple[int, Float[Tensor, " d_model"]]],
    prompts: Sequence[Prompt],
    mode: Mode,
    batch_tokens: int,
    progress: bool,
) -> Float[Tensor, "prompt write first_full"]:
    answers = torch.tensor([prompt.answer for prompt in prompts])
    compared = compare(
        model,
        "zero",
        [prompt.answered() for prompt in prompts],
        site=site,
        metric={"first": _right(answers, 1), "full": _right(answers, answers.shape[1])},
        layers=sorted({layer for layer, _ in writes}),
        heads=None,
        positions=-answers.shape[1],
        seed=0,
    )
    by_layer = {cell.layer: cell for cell in compared.grid.cells}
    cells = [by_layer[layer] for layer, _ in writes]
    parts = [
        _written(compared.own(cell), value, mode)
        for cell, (_, value) in zip(cells, writes, strict=True)
    ]
    found = run_sweep(model, compared, cells, parts, batch_tokens=batch_tokens, progress=progress)
    return rearrange(found.values, "metric write prompt -> prompt write metric").cpu()


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
