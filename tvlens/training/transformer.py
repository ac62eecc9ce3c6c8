"""`Transformer`: the PyTorch module that is trained; `to_transformer_lens` adds named hook points.

It uses fused kernels, which hooks would prevent: one product for queries, keys and values, fused
attention, one complex product for the rotary embedding.
"""

import torch
from einops import rearrange
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import TvlensError
from .config import TransformerConfig

ROTARY_BASE = 10_000
EPSILON = 1e-5
_ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
_NORMS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.activation = _ACTIVATIONS[config.activation]
        self.norm1 = _NORMS[config.norm](config.d_model, eps=EPSILON)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.attn_out = nn.Linear(config.d_model, config.d_model)
        self.norm2 = _NORMS[config.norm](config.d_model, eps=EPSILON)
        self.mlp_in = nn.Linear(config.d_model, config.d_mlp)
        self.mlp_out = nn.Linear(config.d_mlp, config.d_model)

    def forward(
        self,
        residual: Float[Tensor, "batch pos d_model"],
        rotation: Complex[Tensor, "pos 3 1 pair"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Compute the residual stream after the block."""
        residual = residual + self.attention(self.norm1(residual), rotation)
        hidden = self.activation(self.mlp_in(self.norm2(residual)))
        output: Tensor = self.mlp_out(hidden)
        return residual + output

    def attention(
        self,
        normed: Float[Tensor, "batch pos d_model"],
        rotation: Complex[Tensor, "pos 3 1 pair"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Compute causal self-attention."""
        qkv = rearrange(
            self.qkv(normed),
            "batch pos (three head d_head) -> batch pos three head d_head",
            three=3,
            head=self.heads,
        )
        if rotation is not None:
            qkv = apply_rotary(qkv, rotation)
        query, key, value = rearrange(
            qkv, "batch pos three head d_head -> three batch head pos d_head"
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.attn_out(
            rearrange(mixed, "batch head pos d_head -> batch pos (head d_head)")
        )
        return output


class Transformer(nn.Module):
    """Decoder with randomly initialized weights.

    Embeddings are normal with standard deviation 0.02. Matrices have PyTorch's variance,
    1 / (3 inputs), and those that write to the residual stream 1 / (2 layers) of it (GPT-2); biases
    are zero. On dice this halves the divergence from Bayes after 400 steps, compared with a
    standard deviation of 0.8 / sqrt(d_model).

    Args:
        config: the architecture.
        seed: seed of the weights.
    """

    def __init__(self, config: TransformerConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # The rows of the embedding are those of tokens, or of the coordinates of x and of y.
        self.embed = nn.Embedding(config.d_in, config.d_model)
        is_learned = config.positions == "learned"
        self.position = nn.Embedding(config.context, config.d_model) if is_learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        norm = _NORMS[config.norm](config.d_model, eps=EPSILON)
        self.final_norm = norm if config.final_norm else nn.Identity()
        self.unembed = nn.Linear(config.d_model, config.d_out, bias=False)
        rotation = None if is_learned else rotary_factors(config.context, config.d_head)
        self.register_buffer("rotation", rotation, persistent=False)
        self._initialize(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif name.startswith(("embed", "position")):
                weight.normal_(0, 0.02, generator=generator)
            elif weight.ndim == 2:
                is_output = name.endswith(("attn_out.weight", "mlp_out.weight"))
                share = 2 * self.config.layers if is_output else 1
                weight.normal_(0, (3 * weight.shape[1] * share) ** -0.5, generator=generator)

    def forward(
        self, inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_in"]
    ) -> Float[Tensor, "batch pos d_out"]:
        """Compute logits of the next token, or the predicted y, at every position.

        Args:
            inputs: tokens, or the vectors of a regression as `interleave_pairs` returns them;
                they are moved to the model's device.

        Raises:
            TvlensError: more positions than the context.
        """
        inputs = inputs.to(self.unembed.weight.device)
        length = inputs.shape[1]
        if length > self.config.context:
            raise TvlensError(f"{length} positions, but the context is {self.config.context}")
        is_vector = inputs.is_floating_point()
        residual = inputs @ self.embed.weight if is_vector else self.embed(inputs)
        if self.position is not None:
            residual = residual + self.position.weight[:length]
        rotation = None if self.rotation is None else self.rotation[:length]
        for block in self.blocks:
            residual = block(residual, rotation)
        logits: Tensor = self.unembed(self.final_norm(residual))
        return logits


def rotary_factors(context: int, d_head: int) -> Complex[Tensor, "pos 3 1 pair"]:
    """Compute the complex factors of rotary embeddings (Su et al. 2021, equation 15).

    The second axis is query, key and value. Values are multiplied by one, which is faster than
    splitting them off and concatenating their gradient.
    """
    frequency = 1.0 / (ROTARY_BASE ** (torch.arange(0, d_head, 2).float() / d_head))
    angle = torch.outer(torch.arange(context).float(), frequency)
    factor = torch.polar(torch.ones_like(angle), angle)
    return torch.stack([factor, factor, torch.ones_like(factor)], dim=1)[:, :, None]


def apply_rotary(
    states: Float[Tensor, "batch pos 3 head d_head"], rotation: Complex[Tensor, "pos 3 1 pair"]
) -> Float[Tensor, "batch pos 3 head d_head"]:
    """Rotate neighbouring coordinates as complex numbers, faster than by sines and cosines."""
    pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2)
