"""Does the model give the right answer, with a vector written in or not? Many rows at once.

A row is a prompt with, perhaps, a vector written at one layer at the query's delimiter. Rows of
all layers ride in the same forward passes, so a sweep over layers costs as many forwards as its
rows fill batches, and not one forward per layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import TvlensError
from ..models.forward import Batch, logits_at
from ..models.hooks import Hook, write_at
from ..sites import Site, SiteName
from ..tasks import Prompt
from .vector import Mode, written


@dataclass(frozen=True)
class Row:
    """A prompt to score, and what to write into it.

    Attributes:
        prompt: with its answer.
        layer: where to write `vector`; None leaves the model alone.
        vector: written at the query's delimiter.
    """

    prompt: Prompt
    layer: int | None = None
    vector: Float[Tensor, " d_model"] | None = None


@dataclass(frozen=True)
class Scores:
    """Right or wrong, one entry per row.

    Attributes:
        first: the answer's first token is the most likely one.
        full: greedy decoding gives every token of the answer.
        said: the most likely token at the delimiter, whether right or not.
    """

    first: Bool[Tensor, " row"]
    full: Bool[Tensor, " row"]
    said: Int[Tensor, " row"]


def score(
    model: Any,
    rows: Sequence[Row],
    *,
    site: SiteName | str = "resid_post",
    mode: Mode = "replace",
    batch_tokens: int = 2048,
    progress: bool = False,
) -> Scores:
    """Score many rows; each batch holds about `batch_tokens` tokens, padding included.

    The answer is teacher-forced: greedy decoding yields it exactly if the most likely token is
    the answer's own at each of its positions, so one forward replaces a generation.
    """
    if not rows:
        raise TvlensError("no rows to score")
    for row in rows:
        if not row.prompt.answer:
            raise TvlensError(f"prompt {row.prompt.text!r} was built without its answer")
    first, full = (torch.zeros(len(rows), dtype=torch.bool) for _ in range(2))
    said = torch.zeros(len(rows), dtype=torch.long)
    with tqdm(total=len(rows), desc="scoring", disable=None if progress else True) as bar:
        for chunk in _chunks(rows, batch_tokens):
            right, said[chunk] = _right(model, [rows[i] for i in chunk], site, mode)
            first[chunk], full[chunk] = right[:, 0], right.all(dim=1)
            bar.update(len(chunk))
    return Scores(first, full, said)


def lenient(said: str, answer: str) -> bool:
    """Whether one of the two begins with the other, as in Luo et al. 2024: "C" is Canberra.

    Source: the evaluation code of "Task Vectors are Cross-Modal".
    """
    said, answer = said.strip(), answer.strip()
    return bool(said) and (answer.startswith(said) or said.startswith(answer))


def _right(
    model: Any, rows: Sequence[Row], site: str, mode: Mode
) -> tuple[Bool[Tensor, "row answer"], Int[Tensor, " row"]]:
    """Which tokens of each answer the model predicts, and its first predicted token.

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
    logits = logits_at(model, batch, inside, hooks=_writes(model, rows, delimiter, site, mode))
    likeliest = logits.argmax(-1).cpu()
    return (likeliest == answers) | (answers == -1), likeliest[:, 0]


def _writes(
    model: Any, rows: Sequence[Row], delimiter: Int[Tensor, " row"], site: str, mode: Mode
) -> list[Hook]:
    """One hook per layer at which any row is written to."""
    by_layer: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row.layer is not None:
            by_layer.setdefault(row.layer, []).append(i)

    def edit(indices: list[int]) -> Callable[[Tensor], Tensor]:
        values = torch.stack([rows[i].vector for i in indices])
        return lambda states: written(states, values.to(states), mode)

    return [
        write_at(Site(site, layer).hook(model), ((indices, delimiter[indices]), edit(indices)))
        for layer, indices in by_layer.items()
    ]


def _chunks(rows: Sequence[Row], batch_tokens: int) -> list[list[int]]:
    """Indices of rows, alike in length, in batches of about `batch_tokens` tokens."""
    lengths = [len(row.prompt.tokens) + len(row.prompt.answer) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    chunks: list[list[int]] = [[]]
    for i in order:
        # Sorted by length, so the newest row is the longest: it sets the batch's width.
        if chunks[-1] and lengths[i] * (len(chunks[-1]) + 1) > batch_tokens:
            chunks.append([])
        chunks[-1].append(i)
    return chunks
