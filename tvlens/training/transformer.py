"""`Transformer`: the plain module that is trained; `to_transformer_lens` adds named hook points.

Everything a step does is a fused kernel of PyTorch: one product for queries, keys and values, fused
attention, one complex product for the rotation. Hooks would break these apart.
"""

import torch
from einops import rearrange
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TvlensError
from .shape import Shape

ROTARY_BASE = 10_000
EPSILON = 1e-5
_ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
_NORMS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.activation = _ACTIVATIONS[shape.activation]
        self.norm1 = _NORMS[shape.norm](shape.d_model, eps=EPSILON)
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model)
        self.attn_out = nn.Linear(shape.d_model, shape.d_model)
        self.norm2 = _NORMS[shape.norm](shape.d_model, eps=EPSILON)
        self.mlp_in = nn.Linear(shape.d_model, shape.d_mlp)
        self.mlp_out = nn.Linear(shape.d_mlp, shape.d_model)

    def forward(
        self,
        residual: Float[Tensor, "batch pos d_model"],
        rotation: Complex[Tensor, "pos 3 1 pair"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after the block."""
        residual = residual + self.attention(self.norm1(residual), rotation)
        hidden = self.activation(self.mlp_in(self.norm2(residual)))
        return residual + self.mlp_out(hidden)

    def attention(
        self,
        normed: Float[Tensor, "batch pos d_model"],
        rotation: Complex[Tensor, "pos 3 1 pair"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Causal self-attention of all heads."""
        qkv = rearrange(
            self.qkv(normed),
            "batch pos (three head d_head) -> batch pos three head d_head",
            three=3,
            head=self.heads,
        )
        if rotation is not None:
            qkv = rotated(qkv, rotation)
        query, key, value = rearrange(
            qkv, "batch pos three head d_head -> three batch head pos d_head"
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attn_out(rearrange(mixed, "batch head pos d_head -> batch pos (head d_head)"))


class Transformer(nn.Module):
    """A decoder of the given shape with fresh weights; the same seed gives the same ones.

    Embeddings are normal with deviation 0.02. Matrices have the variance that PyTorch gives them,
    1 / (3 inputs), and those that write to the residual stream 1 / (2 layers) of it (GPT-2); biases
    are zero. On dice this came twice as close to Bayes in 400 steps as 0.8 / sqrt(d_model) did.
    """

    def __init__(self, shape: Shape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        # The rows of the embedding are the directions of tokens, or of x and y.
        self.embed = nn.Embedding(shape.d_in, shape.d_model)
        learned = shape.positions == "learned"
        self.position = nn.Embedding(shape.context, shape.d_model) if learned else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        norm = _NORMS[shape.norm](shape.d_model, eps=EPSILON)
        self.final_norm = norm if shape.final_norm else nn.Identity()
        self.unembed = nn.Linear(shape.d_model, shape.d_out, bias=False)
        rotation = None if learned else rotations(shape.context, shape.d_head)
        self.register_buffer("rotation", rotation, persistent=False)
        self._initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif name.startswith(("embed", "position")):
                weight.normal_(0, 0.02, generator=generator)
            elif weight.ndim == 2:
                writes = name.endswith(("attn_out.weight", "mlp_out.weight"))
                share = 2 * self.shape.layers if writes else 1
                weight.normal_(0, (3 * weight.shape[1] * share) ** -0.5, generator=generator)

    def forward(
        self, inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_in"]
    ) -> Float[Tensor, "batch pos d_out"]:
        """Logits of the next token, or the predicted y, at every position.

        Args:
            inputs: tokens, or the vectors of a regression as `interleaved` lays them out; they
                are moved to the model.

        Raises:
            TvlensError: more positions than the context.
        """
        inputs = inputs.to(self.unembed.weight.device)
        length = inputs.shape[1]
        if length > self.shape.context:
            raise TvlensError(f"{length} positions, but the context is {self.shape.context}")
        vectors = inputs.is_floating_point()
        residual = inputs @ self.embed.weight if vectors else self.embed(inputs)
        if self.position is not None:
            residual = residual + self.position.weight[:length]
        rotation = None if self.rotation is None else self.rotation[:length]
        for block in self.blocks:
            residual = block(residual, rotation)
        return self.unembed(self.final_norm(residual))


def rotations(context: int, d_head: int) -> Complex[Tensor, "pos 3 1 pair"]:
    """The turn of every pair of coordinates at every position (Su et al. 2021, equation 15).

    The second axis is query, key and value; values are multiplied by one, which costs less than
    cutting them out and putting their gradient back together.
    """
    frequency = 1.0 / (ROTARY_BASE ** (torch.arange(0, d_head, 2).float() / d_head))
    angle = torch.outer(torch.arange(context).float(), frequency)
    turn = torch.polar(torch.ones_like(angle), angle)
    return torch.stack([turn, turn, torch.ones_like(turn)], dim=1)[:, :, None]


def rotated(
    states: Float[Tensor, "batch pos 3 head d_head"], rotation: Complex[Tensor, "pos 3 1 pair"]
) -> Float[Tensor, "batch pos 3 head d_head"]:
    """Turn neighbouring coordinates as complex numbers: faster than sines and cosines apart."""
    pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2)
