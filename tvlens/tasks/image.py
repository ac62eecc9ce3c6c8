"""`Image`: a task input shown as an image, from a file, bytes or pixels."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..errors import TvlensError

# How a prompt shows an input.
Modality = Literal["text", "image"]
MODALITIES = get_args(Modality)

# A file, its bytes, `uint8 [height, width]` without channels or with 1, 3 or 4, or a PIL image.
Source = str | os.PathLike | bytes | np.ndarray | Any


@dataclass(frozen=True, eq=False)
class Image:
    """An image with the name of what it shows.

    Attributes:
        name: the input of the task's pair; errors and results refer to the image by it.
        source: a file, the bytes of one, `uint8` pixels, or a PIL image.

    Example:
        >>> import numpy as np
        >>> image = tv.Image("snow", np.full((4, 4, 3), 255, np.uint8))
        >>> image.read_pixels().shape
        (4, 4, 3)
    """

    name: str
    source: Source

    def __repr__(self) -> str:
        return f"Image({self.name!r})"

    def read_pixels(self) -> np.ndarray:
        """Decode the image to `uint8 [height, width, 3]`; transparent areas become white.

        Raises:
            TvlensError: no such file, a file that is no image, or pixels of another shape.
        """
        from PIL import Image as Pillow
        from PIL import ImageOps

        source = self.source
        if isinstance(source, np.ndarray):
            return _to_rgb(_from_array(self.name, source))
        if isinstance(source, Pillow.Image):
            return _to_rgb(source)
        try:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            with Pillow.open(io.BytesIO(data)) as opened:
                return _to_rgb(ImageOps.exif_transpose(opened))
        # Pillow's decoders raise exceptions of many types on damaged files.
        except (OSError, ValueError, SyntaxError, EOFError, Pillow.DecompressionBombError) as error:
            where = f"{len(source)} bytes" if isinstance(source, bytes) else source
            raise TvlensError(f"cannot read the image of {self.name!r}, {where}: {error}") from None

    def render_thumbnail(self, *, size: int = 64) -> bytes:
        """Encode the image as a PNG that fits into `size` by `size` pixels, for display."""
        from PIL import Image as Pillow

        thumbnail = Pillow.fromarray(self.read_pixels())
        thumbnail.thumbnail((size, size))
        file = io.BytesIO()
        thumbnail.save(file, "PNG", optimize=True)
        return file.getvalue()


def _from_array(name: str, values: np.ndarray) -> Any:
    from PIL import Image as Pillow

    channels = values.shape[2] if values.ndim == 3 else 1
    if (
        values.dtype != np.uint8
        or values.ndim not in (2, 3)
        or channels not in (1, 3, 4)
        or not values.size
    ):
        raise TvlensError(
            f"the image of {name!r} is {values.dtype} {list(values.shape)}, not uint8 "
            "[height, width] or [height, width, 3 or 4]"
        )
    return Pillow.fromarray(values[..., 0] if values.ndim == 3 and channels == 1 else values)


def _to_rgb(image: Any) -> np.ndarray:
    """Convert a PIL image of any mode to RGB on a white background."""
    from PIL import Image as Pillow

    if image.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would clip at 255
        values = np.asarray(image, dtype=np.float64)
        top = max(values.max(), 255 if values.max() < 256 else 65535)
        image = Pillow.fromarray((values.clip(0) / top * 255).round().astype(np.uint8))
    rgba = image.convert("RGBA")
    white = Pillow.new("RGBA", rgba.size, "white")
    return np.asarray(Pillow.alpha_composite(white, rgba).convert("RGB"))
