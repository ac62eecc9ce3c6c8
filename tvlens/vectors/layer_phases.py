"""What the last token is about, layer by layer: the input, then the task, then the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import collect
from ..errors import TvlensError
from ..results import Result
from ..stats import bootstrap_interval
from ..tasks import Prompt
from .lens import lens

if TYPE_CHECKING:
    import pandas

# States whose logits are held at once: 256 rows of a large vocabulary are some hundred MB.
_TOGETHER = 256


@dataclass(frozen=True)
class Phases(Result):
    """How near the top of the vocabulary words of several groups stand, read by the logit lens.

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
        """Mean over prompts: the mean reciprocal rank."""
        return self.closeness.mean(-1)

    @property
    def peaks(self) -> list[int]:
        """The layer at which each group stands highest."""
        return self.mean.argmax(-1).tolist()

    def intervals(self, *, seed: int = 0) -> Float[Tensor, "group layer 2"]:
        """95% bootstrap intervals of `mean` over prompts."""
        found = [
            [bootstrap_interval(prompts, seed=seed) for prompts in layers.numpy()]
            for layers in self.closeness
        ]
        return torch.tensor(found, dtype=torch.float64)

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
    progress: bool = False,
) -> Phases:
    """Read the state at each prompt's last token, after every block, by the logit lens.

    Args:
        prompts: what is read, at the query's delimiter.
        words: for every prompt, its words by group; the first token of each counts, as it stands
            behind a space.

    Cost: a forward of the prompts, and one of a single token for every prompt and layer.

    Raises:
        TvlensError: not one entry of words per prompt, or groups that differ between prompts.

    Source: Luo et al. 2024, "Task Vectors are Cross-Modal", section 3.
    """
    if len(words) != len(prompts) or not prompts:
        raise TvlensError(f"{len(words)} entries of words for {len(prompts)} prompts")
    groups = tuple(words[0])
    if any(tuple(one) != groups for one in words):
        raise TvlensError(f"every prompt needs words of the same groups: {', '.join(groups)}")
    ids = [[_first_tokens(model.tokenizer, one[group]) for group in groups] for one in words]
    found = collect(
        model, prompts, "resid_post", positions=-1, batch_size=batch_size, progress=progress
    )
    states = found.stack("resid_post")[:, :, 0]
    parts = states.split(max(1, _TOGETHER // len(prompts)))
    logits = (lens(model, part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in parts)
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
