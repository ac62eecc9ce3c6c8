"""What is said about a picture, and how well the model says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ...models.tiny_vlm import PicturedLlama
from ...tasks import beginning_token

# What stands before a picture, and between it and its name. The first one is the test's.
PHRASES = (
    ("", " is called"),
    ("Here is ", ". Its name is"),
    ("Q: What is this? ", "\nA:"),
    ("Look at ", ", a picture of"),
)


@dataclass(frozen=True)
class Caption:
    """A phrase with a name: token ids before the picture, behind it, and of the name."""

    before: list[int]
    behind: list[int]
    name: list[int]

    @classmethod
    def of(cls, tokenizer: Any, phrase: tuple[str, str], name: str) -> "Caption":
        """Tokens of a phrase and a name, which a line end closes."""

        def ids(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        before, behind = phrase
        return cls([beginning_token(tokenizer), *ids(before)], ids(behind), ids(f" {name}\n"))


def predicted(
    model: PicturedLlama,
    soft: Float[Tensor, "row token d_model"],
    captions: Sequence[Caption],
) -> tuple[Float[Tensor, "predicted vocab"], Tensor, Tensor]:
    """Logits wherever a token of a name follows, these tokens, and whose row each is."""
    embed = model.get_input_embeddings()
    rows, places, wanted, owners = [], [], [], []
    for i, (caption, picture) in enumerate(zip(captions, soft, strict=True)):
        # The last token of the name is never read.
        parts = (caption.before, caption.behind, caption.name[:-1])
        before, rest, name = (embed(torch.tensor(ids, device=model.device)) for ids in parts)
        row = torch.cat([before, picture.to(name.dtype), rest, name])
        rows.append(row)
        last = len(row) - len(name) - 1
        places += range(last, last + len(caption.name))
        wanted += caption.name
        owners += [i] * len(caption.name)
    # Padded on the right, where a causal model never looks.
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    states = model.model(inputs_embeds=padded).last_hidden_state
    places, wanted, owners = torch.tensor([places, wanted, owners], device=model.device)
    return model.lm_head(states[owners, places]).float(), wanted, owners


def loss(
    model: PicturedLlama,
    soft: Float[Tensor, "row token d_model"],
    captions: Sequence[Caption],
) -> Float[Tensor, ""]:
    """Mean surprise at the tokens of the names, in nats."""
    logits, wanted, _ = predicted(model, soft, captions)
    return F.cross_entropy(logits, wanted)


@torch.no_grad()
def named(
    model: PicturedLlama,
    soft: Float[Tensor, "row token d_model"],
    captions: Sequence[Caption],
) -> Bool[Tensor, " row"]:
    """Whether greedy decoding gives each picture's whole name and then ends the line."""
    logits, wanted, owners = predicted(model, soft, captions)
    wrong = (logits.argmax(-1) != wanted).long()
    return wrong.new_zeros(len(captions)).index_add(0, owners, wrong) == 0
