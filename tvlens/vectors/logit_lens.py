"""The logit lens: tokens of states and vectors by layer, and phases of processing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import collect
from ..errors import TvlensError
from ..models.forward import Batch, logits_at
from ..models.hooks import replace_at
from ..results import Result
from ..sites import Site
from ..stats import bootstrap_interval
from ..tasks import Prompt, beginning_token
from .vector import TaskVector

if TYPE_CHECKING:
    import pandas

# States whose logits are held at once: 256 rows of a large vocabulary are some hundred MB.
_STATES_AT_ONCE = 256


def logit_lens(model: Any, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Compute logits of states by final norm and unembedding (the logit lens).

    The head is the model's own, on any architecture and version: every state takes the place of
    the last block's output in one row of a forward pass of one token.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    last = Site("resid_post", model.cfg.n_layers - 1).hook(model)
    batch = Batch.of(model, [[beginning_token(model.tokenizer)]] * len(states))

    hook = replace_at(last, lambda activation: states[:, None].to(activation))
    first = torch.zeros(len(batch), 1, dtype=torch.long)
    return logits_at(model, batch, first, hooks=[hook])[:, 0].float().cpu()


def vector_logits(model: Any, vector: TaskVector) -> Float[Tensor, "layer vocab"]:
    """Compute logits of each layer's vector by the logit lens."""
    vector.check(model, other_model=True)
    return logit_lens(model, vector.values)


def top_tokens(model: Any, vector: TaskVector, *, k: int = 8) -> list[list[tuple[str, float]]]:
    """List the k most likely tokens of each layer's vector, with probabilities."""
    top = vector_logits(model, vector).softmax(-1).topk(k)
    return [
        [(model.tokenizer.decode([t]), p) for t, p in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Phases(Result):
    """Ranks of several groups of words by layer, by the logit lens.

    Attributes:
        groups: names of the groups, such as "input", "task", "answer".
        closeness: 1 / rank of the best word of each group; 1 is the likeliest of all tokens.
    """

    groups: tuple[str, ...]
    closeness: Float[Tensor, "group layer prompt"]

    def __repr__(self) -> str:
        peaks = zip(self.groups, self.peaks, strict=True)
        return (
            "Phases(" + ", ".join(f"{name} peaks at layer {layer}" for name, layer in peaks) + ")"
        )

    @property
    def mean(self) -> Float[Tensor, "group layer"]:
        """Mean reciprocal rank over prompts."""
        return self.closeness.mean(-1)

    @property
    def peaks(self) -> list[int]:
        """Layer of the highest mean reciprocal rank of each group."""
        return self.mean.argmax(-1).tolist()

    @property
    def interval(self) -> Float[Tensor, "group layer 2"]:
        """95% bootstrap intervals of ``mean`` over prompts."""
        intervals = [
            [bootstrap_interval(prompts) for prompts in layers.numpy()] for layers in self.closeness
        ]
        return torch.tensor(intervals, dtype=torch.float64)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per group and layer: the mean reciprocal rank."""
        import pandas as pd

        table = pd.DataFrame(self.mean.T.tolist(), columns=list(self.groups))
        return table.rename_axis("layer").reset_index().melt("layer", var_name="group")


def phases(
    model: Any,
    prompts: Sequence[Prompt],
    words: Sequence[Mapping[str, Sequence[str]]],
    *,
    batch_size: int = 16,
    progress: bool | None = None,
) -> Phases:
    """Rank groups of words at each prompt's last token after every block, by the logit lens.

    Args:
        prompts: prompts, whose states are read at the query's delimiter.
        words: for every prompt, its words by group; the first token of each counts, as written
            behind a space.

    Cost: a forward of the prompts, and one of a single token for every prompt and layer.

    Raises:
        TvlensError: not one entry of words per prompt, or groups that differ between prompts.

    Source: Luo et al. 2024, "Task Vectors are Cross-Modal", section 3.
    """
    if len(words) != len(prompts) or not prompts:
        raise TvlensError(f"{len(words)} entries of words for {len(prompts)} prompts")
    groups = tuple(words[0])
    if any(tuple(entry) != groups for entry in words):
        raise TvlensError(f"every prompt needs words of the same groups: {', '.join(groups)}")
    ids = [[_first_tokens(model.tokenizer, entry[group]) for group in groups] for entry in words]
    activations = collect(
        model, prompts, "resid_post", positions=-1, batch_size=batch_size, progress=progress
    )
    states = activations.stack("resid_post")[:, :, 0]
    parts = states.split(max(1, _STATES_AT_ONCE // len(prompts)))
    logits = (logit_lens(model, part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in parts)
    closeness = [_closeness(layer, ids) for part in logits for layer in part]
    return Phases(groups, torch.stack(closeness, dim=1).double())


def _first_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    return [tokenizer(" " + word, add_special_tokens=False)["input_ids"][0] for word in words]


def _closeness(
    logits: Float[Tensor, "prompt vocab"], ids: Sequence[Sequence[Sequence[int]]]
) -> Float[Tensor, "group prompt"]:
    best = torch.stack(
        [
            torch.stack([row[tokens].max() for tokens in groups])
            for row, groups in zip(logits, ids, strict=True)
        ]
    )
    ranks = 1 + (logits[:, None] > best[:, :, None]).sum(-1)
    return (1 / ranks).T
