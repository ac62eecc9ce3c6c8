"""How a tiny vision-language model sees: a frozen encoder, and the projector behind it."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .form import Form


class Eye(nn.Module):
    """The frozen encoder: pixel values to the states that the projector reads."""

    def __init__(self, vit: nn.Module, form: Form) -> None:
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.form = form

    @torch.no_grad()
    def forward(
        self, pixels: Float[Tensor, "picture 3 size size"]
    ) -> Float[Tensor, "picture seen state"]:
        """States of every patch at the layers of the form, side by side."""
        seen = self.vit(pixels.to(self.vit.dtype), output_hidden_states=True).hidden_states
        states = torch.cat([seen[layer] for layer in self.form.layers], dim=-1).float()
        side = round((states.shape[1] - 1) ** 0.5)
        patches = rearrange(
            states[:, 1:], "image (row column) state -> image state row column", row=side
        )
        cells = nn.functional.adaptive_avg_pool2d(patches, self.form.grid)
        cells = rearrange(cells, "image state row column -> image (row column) state")
        return torch.cat([states[:, :1], cells], dim=1)


class Projector(nn.Module):
    """All that is trained: states of the encoder to embeddings of the language model.

    Hidden units share out a whole (softmax) and every soft token is the mixture of what they say:
    a picture enters as a mixture of words. An MLP of the same size with GELU learned its training
    pictures as well, but named a new artist's half as often.
    """

    def __init__(self, states: int, hidden: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(states)
        self.inner = nn.Linear(states, hidden)
        self.outer = nn.Linear(hidden, tokens * width)

    def forward(
        self, states: Float[Tensor, "*row seen state"]
    ) -> Float[Tensor, "*row token d_model"]:
        """Image tokens of the language model."""
        shares = self.inner(
            self.norm(rearrange(states, "... seen state -> ... (seen state)"))
        ).softmax(-1)
        return rearrange(
            self.outer(shares), "... (token d_model) -> ... token d_model", token=self.tokens
        )
