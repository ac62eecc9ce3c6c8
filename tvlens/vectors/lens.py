"""What a vector alone writes: the model's own final norm and unembedding, read at every layer."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.forward import Batch, logits_at
from ..models.hooks import replace_at
from ..sites import Site
from ..tasks import beginning_token
from .vector import TaskVector


def lens(model: Any, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Logits of states put in place of the last state (the logit lens).

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
    """Logits of each layer's vector alone, by the lens."""
    vector.check(model, other_model=True)
    return lens(model, vector.values)


def top_tokens(model: Any, vector: TaskVector, *, k: int = 8) -> list[list[tuple[str, float]]]:
    """The k most likely tokens of each layer's vector alone, with probabilities."""
    top = vector_logits(model, vector).softmax(-1).topk(k)
    return [
        [(model.tokenizer.decode([t]), p) for t, p in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
