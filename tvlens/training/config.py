"""`TransformerConfig`: the architecture of a small transformer."""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from ..errors import TvlensError, unknown
from ..integers import is_integer

Positions = Literal["rotary", "learned"]
Norm = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "relu"]
POSITIONS, NORMS, ACTIVATIONS = get_args(Positions), get_args(Norm), get_args(Activation)


@dataclass(frozen=True)
class TransformerConfig:
    """Architecture of a pre-norm decoder; the defaults are those of arXiv 2605.03780, E1.

    Exactly one of `vocab` and `inputs` is set: the model reads tokens and predicts the next one, or
    it reads the pairs of a regression as vectors and predicts one real number.

    Attributes:
        context: maximal number of positions; a regression on n pairs has 2n - 1.
        vocab: number of tokens.
        inputs: dimension of x in a regression.
        layers: number of blocks.
        d_model: width of the residual stream.
        heads: attention heads per block; d_model / heads is the width of each.
        d_mlp: width of the hidden layer of each MLP; 4 d_model by default.
        positions: "rotary", or "learned" embeddings.
        norm: "rms", or "layer".
        final_norm: whether a norm precedes the unembedding.
        activation: activation function of the MLPs: "silu", "gelu" or "relu".

    Raises:
        TvlensError: a size below 1, sizes that do not fit together, or an unknown choice.
    """

    context: int
    vocab: int | None = None
    inputs: int | None = None
    layers: int = 6
    d_model: int = 128
    heads: int = 2
    d_mlp: int | None = None
    positions: Positions = "rotary"
    norm: Norm = "rms"
    final_norm: bool = False
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        if (self.vocab is None) == (self.inputs is None):
            raise TvlensError("give either vocab, for tokens, or inputs, for a regression")
        if self.d_mlp is None:
            object.__setattr__(self, "d_mlp", 4 * self.d_model)
        for name, value in asdict(self).items():
            if is_integer(value) and value < 1:
                raise TvlensError(f"{name} must be at least 1, not {value}")
        if self.d_model % self.heads:
            raise TvlensError(f"d_model {self.d_model} does not divide into {self.heads} heads")
        choices = {"positions": POSITIONS, "norm": NORMS, "activation": ACTIVATIONS}
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise unknown(name, getattr(self, name), valid)
        if self.positions == "rotary" and self.d_head % 2:
            raise TvlensError(f"rotary positions need heads of even width, not {self.d_head}")

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.heads

    @property
    def d_in(self) -> int:
        """Width of the input: the vocabulary, or x and y concatenated."""
        return self.vocab or self.inputs + 1

    @property
    def d_out(self) -> int:
        """Width of the output: logits over the vocabulary, or one real number."""
        return self.vocab or 1
