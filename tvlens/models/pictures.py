"""Pictures as pixel values: resized and normalised as vision encoders want them."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError

# Of ImageNet, per colour channel; what most encoders were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(
    pictures: Sequence[np.ndarray],
    *,
    size: int = 224,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Float[Tensor, "row 3 size size"]:
    """Pictures `uint8 [height, width, 3]`, of any sizes, as normalised squares.

    Args:
        size: pixels a side; the picture is stretched to it, bicubic, without ringing beyond
            black and white, and smoothed where it shrinks.
        mean, std: per channel, of values from 0 to 1, as the model was trained with.

    Raises:
        TvlensError: no pictures, or one of another form.
    """
    if not len(pictures):
        raise TvlensError("no pictures")
    for row, picture in enumerate(pictures):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise TvlensError(
                f"picture {row} is {picture.dtype} {list(picture.shape)}, not uint8 "
                "[height, width, 3]"
            )
    if len({picture.shape for picture in pictures}) == 1:
        square = _resized(np.stack(pictures), size)
    else:
        square = torch.cat([_resized(picture[None], size) for picture in pictures])
    shift, scale = (rearrange(torch.tensor(part), "color -> color 1 1") for part in (mean, std))
    return (square - shift) / scale


def _resized(pictures: np.ndarray, size: int) -> Float[Tensor, "row 3 size size"]:
    values = rearrange(torch.tensor(pictures), "image row column color -> image color row column")
    values = values.float() / 255
    if values.shape[2:] != (size, size):
        values = torch.nn.functional.interpolate(
            values, size=(size, size), mode="bicubic", antialias=True
        )
    return values.clamp(0, 1)
