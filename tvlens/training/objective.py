"""What a batch costs: the next token's cross-entropy, or the squared error of a regression."""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from .data import Pairs, Tokens


def model_inputs(
    batch: Tokens | Pairs,
) -> Int[Tensor, "batch read"] | Float[Tensor, "batch read d_in"]:
    """What the model reads of a batch: everything but the last token, or the last y."""
    if isinstance(batch, Tensor):
        return batch[:, :-1]
    # The last y is asked for, but nothing comes after it: it need not enter.
    return interleaved(*batch)[:, :-1]


def loss(model: Callable[[Tensor], Tensor], batch: Tokens | Pairs) -> Float[Tensor, ""]:
    """The mean over examples and positions, in nats for tokens, in squared units for pairs."""
    outputs = model(model_inputs(batch))
    if isinstance(batch, Tensor):
        return F.cross_entropy(
            rearrange(outputs, "batch pos vocab -> (batch pos) vocab"),
            batch[:, 1:].flatten().to(outputs.device),
        )
    predicted = outputs[:, ::2, 0]
    return F.mse_loss(predicted, batch[1].to(predicted))


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
