"""Scoring: whether a model answers correctly, with a vector applied or without.

`score` takes rows, each a prompt and perhaps a vector at one layer, in shared forward passes.
`layer_sweep` applies one vector at every layer and shares the computation below it by the patching
engines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..models.forward import Batch, logits_at
from ..models.hooks import Hook, write_at
from ..patching.grid import SweptSites
from ..patching.metrics import Metric
from ..patching.setup import prepare_patching
from ..patching.sweep import SweepOptions, run_sweep
from ..progress import progress_bar
from ..sites import Site, SiteName
from ..tasks import Prompt
from .vector import Mode, TaskVector, apply_vector, read_mode


@dataclass(frozen=True)
class Row:
    """A prompt to score, and what to write into it.

    Attributes:
        prompt: with its answer.
        layer: layer to write `vector` at; None for no vector.
        vector: written at the query's delimiter.
    """

    prompt: Prompt
    layer: int | None = None
    vector: Float[Tensor, " d_model"] | None = None


@dataclass(frozen=True)
class Scores:
    """Correctness of answers, one entry per row.

    Attributes:
        first: the answer's first token is the most likely one.
        full: greedy decoding gives every token of the answer.
        predicted: the most likely token at the delimiter.
    """

    first: Bool[Tensor, " row"]
    full: Bool[Tensor, " row"]
    predicted: Int[Tensor, " row"]


def score(
    model: Any,
    rows: Sequence[Row],
    *,
    site: SiteName | str = "resid_post",
    mode: Mode = "replace",
    batch_tokens: int = 512,
    progress: bool | None = None,
) -> Scores:
    """Score many rows; each batch holds about `batch_tokens` tokens, padding included.

    The answer is teacher-forced: greedy decoding yields it exactly if the most likely token is
    the answer's own at each of its positions, so one forward replaces a generation.
    """
    if not rows:
        raise TvlensError("no rows to score")
    mode = read_mode(mode)
    for row in rows:
        if not row.prompt.answer:
            raise TvlensError(f"prompt {row.prompt.text!r} was built without its answer")
    first, full = (torch.zeros(len(rows), dtype=torch.bool) for _ in range(2))
    predicted = torch.zeros(len(rows), dtype=torch.long)
    with progress_bar(total=len(rows), desc="scoring", progress=progress) as bar:
        for chunk in _split_rows(rows, batch_tokens):
            correct, predicted[chunk] = _answer_correct(model, [rows[i] for i in chunk], site, mode)
            first[chunk], full[chunk] = correct[:, 0], correct.all(dim=1)
            bar.update(len(chunk))
    return Scores(first, full, predicted)


def layer_sweep(
    model: Any,
    vector: TaskVector,
    prompts: Sequence[Prompt],
    *,
    mode: Mode | None = None,
    batch_tokens: int = 512,
    progress: bool | None = None,
) -> Float[Tensor, "prompt layer first_full"]:
    """Score the answers with the vector applied at each layer: first token, whole answer.

    Cost: one forward of the prompts, and for every layer and prompt the answer's own tokens from
    that layer up; the patching engine shares the rest.

    Raises:
        TvlensError: a prompt without an answer.
    """
    unanswered = next((prompt for prompt in prompts if not prompt.answer), None)
    if unanswered is not None:
        raise TvlensError(f"prompt {unanswered.text!r} was built without its answer")
    options = dict(batch_tokens=batch_tokens, progress=progress)
    writes = list(enumerate(vector.values))
    return score_writes(
        model, vector.site, writes, prompts, mode=read_mode(mode or vector.mode), **options
    )


def score_writes(
    model: Any,
    site: SiteName | str,
    writes: Sequence[tuple[int, Float[Tensor, " d_model"]]],
    prompts: Sequence[Prompt],
    *,
    mode: Mode,
    batch_tokens: int = 512,
    progress: bool | None = None,
) -> Float[Tensor, "prompt write first_full"]:
    """Score the answers with each (layer, vector) applied: first token, whole answer.

    The vector is written at the query's delimiter. Cost: as `layer_sweep`, for every write.
    """
    correct = torch.zeros(len(prompts), len(writes), 2)
    options = dict(batch_tokens=batch_tokens, progress=progress)
    for length in sorted({len(prompt.answer) for prompt in prompts}):
        members = [i for i, prompt in enumerate(prompts) if len(prompt.answer) == length]
        alike = [prompts[i] for i in members]
        # With answers of one length the delimiter has the same distance from each end.
        correct[members] = _score_one_length(model, site, writes, alike, mode, **options)
    return correct


def lenient(prediction: str, answer: str) -> bool:
    """Whether one text begins with the other (Luo et al. 2024): "C" counts as "Canberra".

    Source: the evaluation code of "Task Vectors are Cross-Modal".
    """
    prediction, answer = prediction.strip(), answer.strip()
    return bool(prediction) and (answer.startswith(prediction) or prediction.startswith(answer))


def _answer_correct(
    model: Any, rows: Sequence[Row], site: str, mode: Mode
) -> tuple[Bool[Tensor, "row answer"], Int[Tensor, " row"]]:
    """Compute the correct tokens of each answer, and the first predicted token.

    Padding behind a short answer counts as right.
    """
    # The answer's last token is never read as input.
    batch = Batch.of(model, [r.prompt.answered() for r in rows])
    delimiter = torch.tensor([len(r.prompt.tokens) - 1 for r in rows])
    answers = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(r.prompt.answer) for r in rows], batch_first=True, padding_value=-1
    )
    positions = delimiter[:, None] + torch.arange(answers.shape[1])
    inside = positions.clamp(max=int(batch.lengths.max()) - 1)
    logits = logits_at(model, batch, inside, hooks=_write_hooks(model, rows, delimiter, site, mode))
    likeliest = logits.argmax(-1).cpu()
    return (likeliest == answers) | (answers == -1), likeliest[:, 0]


def _write_hooks(
    model: Any, rows: Sequence[Row], delimiter: Int[Tensor, " row"], site: str, mode: Mode
) -> list[Hook]:
    """Create one hook per layer that writes into the rows."""
    by_layer: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row.layer is not None:
            by_layer.setdefault(row.layer, []).append(i)

    def edit(indices: list[int]) -> Callable[[Tensor], Tensor]:
        values = torch.stack([rows[i].vector for i in indices])
        return lambda states: apply_vector(states, values.to(states), mode)

    return [
        write_at(Site(site, layer).hook(model), ((indices, delimiter[indices]), edit(indices)))
        for layer, indices in by_layer.items()
    ]


def _split_rows(rows: Sequence[Row], batch_tokens: int) -> list[list[int]]:
    """Split rows into batches of similar length and about `batch_tokens` tokens."""
    lengths = [len(row.prompt.tokens) + len(row.prompt.answer) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    chunks: list[list[int]] = [[]]
    for i in order:
        # Sorted by length, so the newest row is the longest: it sets the batch's width.
        if chunks[-1] and lengths[i] * (len(chunks[-1]) + 1) > batch_tokens:
            chunks.append([])
        chunks[-1].append(i)
    return chunks


def _score_one_length(
    model: Any,
    site: SiteName | str,
    writes: Sequence[tuple[int, Float[Tensor, " d_model"]]],
    prompts: Sequence[Prompt],
    mode: Mode,
    *,
    batch_tokens: int,
    progress: bool | None,
) -> Float[Tensor, "prompt write first_full"]:
    answers = torch.tensor([prompt.answer for prompt in prompts])
    length = answers.shape[1]
    layers = sorted({layer for layer, _ in writes})
    setup = prepare_patching(
        model,
        "zero",
        [prompt.answered() for prompt in prompts],
        SweptSites(site, layers, heads=None, positions=-length),
        metric={
            "first": _correct_metric(answers, 1),
            "full": _correct_metric(answers, length),
        },
        seed=0,
    )
    by_layer = {patch.layer: patch for patch in setup.grid.patches}
    patches = [by_layer[layer] for layer, _ in writes]
    states = [setup.base_part(patch) for patch in patches]
    replacements = [
        apply_vector(state, vector.to(state), mode)
        for state, (_, vector) in zip(states, writes, strict=True)
    ]
    options = SweepOptions(batch_tokens, progress=progress)
    sweep = run_sweep(model, setup, patches, replacements, options)
    return rearrange(sweep.values, "metric write prompt -> prompt write metric").cpu()


def _correct_metric(answers: Tensor, count: int) -> Metric:
    """Whether the first `count` tokens of an answer are the most likely ones (1 or 0)."""

    def metric(logits: Float[Tensor, "prompt pos vocab"]) -> Float[Tensor, " prompt"]:
        target = answers[:, :count].to(logits.device)
        return (logits[:, :count].argmax(-1) == target).all(1).float()

    metric.positions = range(-answers.shape[1], 0)  # type: ignore[attr-defined]
    return metric
