"""Augmentation of training images: random views of an image, and style offsets between artists."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# Premultiplied colours and alpha, before and after resizing.
RGBA = Float[Tensor, "4 height width"]
SquareRGBA = Float[Tensor, "4 size size"]
RGB = Float[Tensor, "3 size size"]

# Encoder states of several views of every image.
States = Float[Tensor, "image view state d_vision"]


def render_on_white(pixels: np.ndarray, *, size: int) -> np.ndarray:
    """Resize `uint8 [height, width, 4]` to `uint8 [size, size, 3]` on a white background."""
    white = torch.ones(3, size, size)
    return _to_uint8(_composite(_resize(_premultiply(pixels), size), white))


def render_random_view(pixels: np.ndarray, *, size: int, seed: Sequence[int]) -> np.ndarray:
    """Render a random view of `uint8 [height, width, 4]` as `uint8 [size, size, 3]`.

    The seed decides position and scale (cropped at the edges), rotation, wave distortion,
    colours, blur and background.
    """
    rng = np.random.default_rng(list(seed))
    rgba = _random_warp(_premultiply(pixels), size, rng)
    rgba = _random_colors(rgba, rng)
    rgb = _composite(rgba, _random_background(size, rng))
    return _to_uint8(_random_blur(rgb, rng))


def _premultiply(pixels: np.ndarray) -> RGBA:
    """Colours times alpha, and alpha: interpolation then leaves no dark edges."""
    values = rearrange(torch.tensor(pixels), "row column color -> color row column").float() / 255
    return torch.cat([values[:3] * values[3:], values[3:]])


def _resize(rgba: RGBA, size: int) -> SquareRGBA:
    shape = (size, size)
    return F.interpolate(rgba[None], size=shape, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _random_warp(rgba: RGBA, size: int, rng: np.random.Generator) -> SquareRGBA:
    """Rotate by up to 25 degrees, scale by 0.6 to 1.25, shift, and half of the time add waves."""
    angle, scale = np.radians(rng.uniform(-25, 25)), rng.uniform(0.6, 1.25)
    shift = rng.uniform(-0.25, 0.25, 2)
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    x, y = x - shift[0], y - shift[1]
    rotated_x = (np.cos(angle) * x + np.sin(angle) * y) / scale
    rotated_y = (np.cos(angle) * y - np.sin(angle) * x) / scale
    amplitude = rng.uniform(0.02, 0.12) * (rng.random() < 0.5)
    wave = torch.sin(rotated_x * rng.uniform(3, 8) + rng.uniform(0, 6.3))
    grid = torch.stack([rotated_x, rotated_y + amplitude * wave], dim=-1)[None]
    return F.grid_sample(rgba[None], grid.float(), align_corners=False)[0]


def _random_colors(rgba: SquareRGBA, rng: np.random.Generator) -> SquareRGBA:
    """Change brightness, contrast and saturation; keep hues nearly, for the flags."""
    color, alpha = rgba[:3], rgba[3:]
    gray = color.mean(0, keepdim=True)
    color = gray + (color - gray) * rng.uniform(0.6, 1.3)
    color = 0.5 * alpha + (color - 0.5 * alpha) * rng.uniform(0.75, 1.2)
    color = color * torch.tensor(rng.uniform(0.85, 1.12, (3, 1, 1))).float()
    return torch.cat([color.clamp(0, 1).minimum(alpha), alpha])


def _random_background(size: int, rng: np.random.Generator) -> RGB:
    """White, one colour, or a gradient between two colours; the last two with noise."""
    kind = rng.integers(3)
    top, bottom = (torch.tensor(rng.random((3, 1, 1))).float() for _ in range(2))
    if kind == 0:
        return torch.ones(3, size, size)
    if kind == 1:
        bottom = top
    share = torch.linspace(0, 1, size).view(1, size, 1)
    noise = torch.tensor(rng.normal(0, 0.04, (3, size, size))).float()
    return (top * (1 - share) + bottom * share + noise).clamp(0, 1)


def _composite(rgba: SquareRGBA, background: RGB) -> RGB:
    return rgba[:3] + (1 - rgba[3:]) * background


def _random_blur(rgb: RGB, rng: np.random.Generator) -> RGB:
    """Box blur of up to five pixels, half of the time."""
    radius = int(rng.integers(0, 3)) * int(rng.random() < 0.5)
    if not radius:
        return rgb
    padded = F.pad(rgb[None], [radius] * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0]


def _to_uint8(rgb: RGB) -> np.ndarray:
    values = (rgb.clamp(0, 1) * 255).round().byte()
    return rearrange(values, "color row column -> row column color").numpy()


def same_category_pairs(names: Sequence[str]) -> Int[np.ndarray, "pair two"]:
    """Every ordered pair of different rows that have the same name."""
    by_name: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_name.setdefault(name, []).append(row)
    pairs = [(a, b) for rows in by_name.values() for a in rows for b in rows if a != b]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def style_offsets(
    states: States, pairs: Int[np.ndarray, "pair two"], count: int, *, seed: Sequence[int]
) -> Float[Tensor, "row state d_vision"]:
    """Draw random fractions of the difference between two images of one category.

    Added to the states of other images, they change the artist's style and keep the category, so
    that the projector learns to ignore style.

    Args:
        states: states of the views of all training images.
        pairs: from `same_category_pairs`; without any, the offsets are zero.
        count: rows.
        seed: seed of the pairs, their views and the fractions.
    """
    if not len(pairs):
        return torch.zeros(count, *states.shape[2:])
    rng = np.random.default_rng(list(seed))
    first, second = pairs[rng.integers(len(pairs), size=count)].T
    first_view, second_view = rng.integers(states.shape[1], size=(2, count))
    fraction = torch.tensor(rng.random((count, 1, 1)), dtype=torch.float32)
    difference = states[first, first_view].float() - states[second, second_view].float()
    return fraction * difference
