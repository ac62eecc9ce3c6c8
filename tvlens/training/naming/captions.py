"""What is said about a picture, and how well the model says it.

A language model names what it has just read where a prompt shows it copying: behind a few words
and their copies, it says the name of a thing that stands there in its own words' embeddings nine
times of ten, and never without them. So the projector need not learn to prompt as well: it only
has to give the picture embeddings that read as the thing's name.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ...models.tiny_vlm import Pictured
from ...tasks import Template, beginning_token

# Words that no picture of the pack shows; each is copied.
COPIED = ("river", "Siberia", "wooden table", "sparrow")

# The ways in which they are written. The first one is the test's.
TEMPLATES = ("qa", "colon")

Names = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Phrase:
    """What stands around a picture.

    Attributes:
        read: the cache of what stands before it, for one row; it is always the same.
        behind: token ids between the picture and its name.
        end: the token that ends a name.
    """

    read: Any
    behind: list[int]
    end: int

    @classmethod
    @torch.no_grad()
    def of(cls, model: Pictured, tokenizer: Any, template: str) -> "Phrase":
        """Let the model read the copied words, written with a template."""
        form = Template.of(template)
        shown = (form.demonstration.format(x=word, y=word) for word in COPIED)
        before = [beginning_token(tokenizer), *_ids(tokenizer, "".join(shown) + form.prefix)]
        found = model.model(torch.tensor([before], device=model.device), use_cache=True)
        # Two line ends are one token or two, by what follows.
        ended = _ids(tokenizer, f" {COPIED[0]}{form.separator}{form.prefix or COPIED[1]}")
        end = ended[len(named_ids(tokenizer, COPIED[0]))]
        return cls(found.past_key_values, _ids(tokenizer, form.delimiter), end)

    def cache(self, rows: int) -> Any:
        """What the model has read when a picture begins, for so many rows."""
        cache = copy.deepcopy(self.read)
        cache.batch_repeat_interleave(rows)
        return cache


def named_ids(tokenizer: Any, name: str) -> list[int]:
    """Token ids of a name as it stands behind a delimiter."""
    return _ids(tokenizer, f" {name}")


def predicted(
    model: Pictured,
    soft: Float[Tensor, "row token d_model"],
    phrase: Phrase,
    names: Names,
) -> tuple[Float[Tensor, "predicted vocab"], Tensor, Tensor]:
    """Logits wherever a token of a name or its end follows, these tokens, and whose row each is."""
    embed = model.get_input_embeddings()
    rows, places, wanted, owners = [], [], [], []
    for i, (name, picture) in enumerate(zip(names, soft, strict=True)):
        # The end is never read.
        behind = embed(torch.tensor([*phrase.behind, *name], device=model.device))
        rows.append(torch.cat([picture.to(behind.dtype), behind]))
        last = len(rows[-1]) - len(name) - 1
        places += range(last, last + len(name) + 1)
        wanted += [*name, phrase.end]
        owners += [i] * (len(name) + 1)
    # Padded on the right, where a causal model never looks.
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    states = model.model(inputs_embeds=padded, past_key_values=phrase.cache(len(rows)))
    places, wanted, owners = torch.tensor([places, wanted, owners], device=model.device)
    logits = model.lm_head(states.last_hidden_state[owners, places])
    return logits.float(), wanted, owners


def loss(
    model: Pictured, soft: Float[Tensor, "row token d_model"], phrase: Phrase, names: Names
) -> Float[Tensor, ""]:
    """Mean surprise at the tokens of the names and their ends, in nats."""
    logits, wanted, _ = predicted(model, soft, phrase, names)
    return F.cross_entropy(logits, wanted)


@torch.no_grad()
def named(
    model: Pictured, soft: Float[Tensor, "row token d_model"], phrase: Phrase, names: Names
) -> Bool[Tensor, " row"]:
    """Whether greedy decoding gives each picture's whole name and then ends it."""
    logits, wanted, owners = predicted(model, soft, phrase, names)
    wrong = (logits.argmax(-1) != wanted).long()
    return wrong.new_zeros(len(names)).index_add(0, owners, wrong) == 0


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
