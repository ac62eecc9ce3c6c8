"""The same drawing seen otherwise: moved, turned, waving, blurred, in other colours and places."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Drawing = Float[Tensor, "4 height width"]
Layer = Float[Tensor, "4 size size"]
View = Float[Tensor, "3 size size"]


def plain(drawing: np.ndarray, *, size: int) -> np.ndarray:
    """A drawing on white, as `uint8 [size, size, 3]`."""
    return _as_bytes(_over(_enlarged(_premultiplied(drawing), size), torch.ones(3, size, size)))


def augmented(drawing: np.ndarray, *, size: int, seed: Sequence[int]) -> np.ndarray:
    """A random view of a drawing `uint8 [height, width, 4]`, as `uint8 [size, size, 3]`.

    Every seed has its own place and size in the frame (cropped where it sticks out), rotation,
    waves, colours, blur and background.
    """
    rng = np.random.default_rng(list(seed))
    layer = _moved(_premultiplied(drawing), size, rng)
    layer = _recoloured(layer, rng)
    seen = _over(layer, _background(size, rng))
    return _as_bytes(_blurred(seen, rng))


def _premultiplied(drawing: np.ndarray) -> Drawing:
    """Colours times alpha, and alpha: what may be interpolated without dark seams."""
    values = rearrange(torch.tensor(drawing), "row column color -> color row column").float() / 255
    return torch.cat([values[:3] * values[3:], values[3:]])


def _enlarged(drawing: Drawing, size: int) -> Layer:
    shape = (size, size)
    return F.interpolate(drawing[None], size=shape, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _moved(drawing: Drawing, size: int, rng: np.random.Generator) -> Layer:
    """Turned by up to 25 degrees, 0.6 to 1.25 times as large, shifted, and perhaps waving."""
    angle, scale = np.radians(rng.uniform(-25, 25)), rng.uniform(0.6, 1.25)
    shift = rng.uniform(-0.25, 0.25, 2)
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    x, y = x - shift[0], y - shift[1]
    turned_x = (np.cos(angle) * x + np.sin(angle) * y) / scale
    turned_y = (np.cos(angle) * y - np.sin(angle) * x) / scale
    height = rng.uniform(0.02, 0.12) * (rng.random() < 0.5)
    waving = turned_y + height * torch.sin(turned_x * rng.uniform(3, 8) + rng.uniform(0, 6.3))
    grid = torch.stack([turned_x, waving], dim=-1)[None]
    return F.grid_sample(drawing[None], grid.float(), align_corners=False)[0]


def _recoloured(layer: Layer, rng: np.random.Generator) -> Layer:
    """Other brightness, contrast and saturation; hues nearly stay, or flags would be others."""
    colour, alpha = layer[:3], layer[3:]
    grey = colour.mean(0, keepdim=True)
    colour = grey + (colour - grey) * rng.uniform(0.6, 1.3)
    colour = 0.5 * alpha + (colour - 0.5 * alpha) * rng.uniform(0.75, 1.2)
    colour = colour * torch.tensor(rng.uniform(0.85, 1.12, (3, 1, 1))).float()
    return torch.cat([colour.clamp(0, 1).minimum(alpha), alpha])


def _background(size: int, rng: np.random.Generator) -> View:
    """White, one colour, or a gradient between two, with some noise."""
    kind = rng.integers(3)
    first, second = (torch.tensor(rng.random((3, 1, 1))).float() for _ in range(2))
    if kind == 0:
        return torch.ones(3, size, size)
    if kind == 1:
        second = first
    share = torch.linspace(0, 1, size).view(1, size, 1)
    noise = torch.tensor(rng.normal(0, 0.04, (3, size, size))).float()
    return (first * (1 - share) + second * share + noise).clamp(0, 1)


def _over(layer: Layer, background: View) -> View:
    return layer[:3] + (1 - layer[3:]) * background


def _blurred(seen: View, rng: np.random.Generator) -> View:
    """A box of up to five pixels, half of the time."""
    radius = int(rng.integers(0, 3)) * int(rng.random() < 0.5)
    if not radius:
        return seen
    padded = F.pad(seen[None], [radius] * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0]


def _as_bytes(view: View) -> np.ndarray:
    pixels = (view.clamp(0, 1) * 255).round().byte()
    return rearrange(pixels, "color row column -> row column color").numpy()
