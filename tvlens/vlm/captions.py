"""Captions: the prompt around an image, the loss of its name, and greedy naming accuracy.

A language model names the word before the delimiter if the prompt shows a few words and their
copies: with a name's own word embeddings in place of an image, it repeats the name nine times of
ten, and without the copies never. The projector thus only has to map an image to embeddings that
read as its name; it need not learn to prompt the model.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..tasks import Template, beginning_token
from .model import MultimodalModel

# Words that no packaged image shows, each followed by its copy in the prompt.
COPIED_WORDS = ("river", "Siberia", "wooden table", "sparrow")

# Templates of the prompt; the first one is used for the accuracy.
TEMPLATES = ("qa", "colon")

# Token ids of each row's name.
NameIds = Sequence[Sequence[int]]


@dataclass(frozen=True)
class CaptionPrompt:
    """The constant parts of a prompt around an image.

    Attributes:
        prefix_cache: key-value cache of one row for the tokens before the image.
        suffix: token ids between the image and its name.
        end: the token that ends a name.
    """

    prefix_cache: Any
    suffix: list[int]
    end: int

    @classmethod
    @torch.no_grad()
    def of(cls, model: MultimodalModel, tokenizer: Any, template: str) -> "CaptionPrompt":
        """Run the model on the copied words, written with a template."""
        parsed = Template.of(template)
        copies = (parsed.demonstration.format(x=word, y=word) for word in COPIED_WORDS)
        prefix = [beginning_token(tokenizer), *_ids(tokenizer, "".join(copies) + parsed.prefix)]
        outputs = model.model(torch.tensor([prefix], device=model.device), use_cache=True)
        # Whether two line ends are one token or two depends on what follows them.
        first, second = COPIED_WORDS[:2]
        ids = _ids(tokenizer, f" {first}{parsed.separator}{parsed.prefix or second}")
        end = ids[len(name_ids(tokenizer, first))]
        return cls(outputs.past_key_values, _ids(tokenizer, parsed.delimiter), end)

    def cache(self, rows: int) -> Any:
        """Copy the cache for a number of rows."""
        cache = copy.deepcopy(self.prefix_cache)
        cache.batch_repeat_interleave(rows)
        return cache


def name_ids(tokenizer: Any, name: str) -> list[int]:
    """Tokenize a name as it follows a delimiter."""
    return _ids(tokenizer, f" {name}")


def name_logits(
    model: MultimodalModel,
    soft_tokens: Float[Tensor, "row token d_model"],
    prompt: CaptionPrompt,
    names: NameIds,
) -> tuple[Float[Tensor, "target vocab"], Int[Tensor, " target"], Int[Tensor, " target"]]:
    """Compute logits at every position that predicts a token of a name or its end.

    Returns:
        The logits, the target token of each, and the row that it belongs to.
    """
    embed = model.get_input_embeddings()
    rows, targets, image_indices = [], [], []
    positions: list[int] = []
    for i, (name, image) in enumerate(zip(names, soft_tokens, strict=True)):
        # The end token is predicted, never an input.
        text = embed(torch.tensor([*prompt.suffix, *name], device=model.device))
        rows.append(torch.cat([image.to(text.dtype), text]))
        first = len(rows[-1]) - len(name) - 1
        positions += range(first, first + len(name) + 1)
        targets += [*name, prompt.end]
        image_indices += [i] * (len(name) + 1)
    # Right padding does not affect a causal model.
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    outputs = model.model(inputs_embeds=padded, past_key_values=prompt.cache(len(rows)))
    positions, targets, image_indices = torch.tensor(
        [positions, targets, image_indices], device=model.device
    )
    logits = model.lm_head(outputs.last_hidden_state[image_indices, positions])
    return logits.float(), targets, image_indices


def caption_loss(
    model: MultimodalModel,
    soft_tokens: Float[Tensor, "row token d_model"],
    prompt: CaptionPrompt,
    names: NameIds,
) -> Float[Tensor, ""]:
    """Compute the mean cross-entropy of the tokens of the names and their ends, in nats."""
    logits, targets, _ = name_logits(model, soft_tokens, prompt, names)
    return F.cross_entropy(logits, targets)


@torch.no_grad()
def is_named(
    model: MultimodalModel,
    soft_tokens: Float[Tensor, "row token d_model"],
    prompt: CaptionPrompt,
    names: NameIds,
) -> Bool[Tensor, " row"]:
    """Whether greedy decoding gives the whole name of each image and then ends it."""
    logits, targets, image_indices = name_logits(model, soft_tokens, prompt, names)
    wrong = (logits.argmax(-1) != targets).long()
    return wrong.new_zeros(len(names)).index_add(0, image_indices, wrong) == 0


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
