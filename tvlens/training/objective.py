"""What a batch costs: the next token's cross-entropy, or the squared error of a regression."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .data import Pairs, Tokens
from .transformer import Transformer


def loss(model: Transformer, batch: Tokens | Pairs) -> Float[Tensor, ""]:
    """The mean over examples and positions, in nats for tokens, in squared units for pairs."""
    if isinstance(batch, Tensor):
        logits = model(batch[:, :-1])
        return F.cross_entropy(
            rearrange(logits, "batch pos vocab -> (batch pos) vocab"),
            batch[:, 1:].flatten().to(logits.device),
        )
    inputs, targets = batch
    # The last y is asked for, but nothing comes after it: it need not enter.
    predicted = model(interleaved(inputs, targets)[:, :-1])[:, ::2, 0]
    return F.mse_loss(predicted, targets.to(predicted))


def interleaved(
    inputs: Float[Tensor, "batch pair input"], targets: Float[Tensor, "batch pair"]
) -> Float[Tensor, "batch pos d_in"]:
    """x1, y1, x2, y2, ... as vectors: (x, 0) and (0, ..., 0, y), which no vector can mix up.

    The prediction of the n-th y stands at position 2n, n from 0, where x_n was just read.
    """
    batch, pairs, width = inputs.shape
    vectors = inputs.new_zeros(batch, pairs, 2, width + 1)
    vectors[:, :, 0, :-1] = inputs
    vectors[:, :, 1, -1] = targets
    return rearrange(vectors, "batch pair two d_in -> batch (pair two) d_in")
