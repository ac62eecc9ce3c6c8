"""`Image`: an input that is shown as a picture, out of a file, bytes or pixels."""

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

# A file, the bytes of one, `uint8 [height, width]` with 3 or 4 channels or none, or PIL's own.
Source = str | os.PathLike | bytes | np.ndarray | Any


@dataclass(frozen=True, eq=False)
class Image:
    """A picture under the name of what it shows.

    Attributes:
        name: the item's input; errors and results call the picture by it.
        source: a file, the bytes of one, `uint8` pixels, or a PIL image.
    """

    name: str
    source: Source

    def __repr__(self) -> str:
        return f"Image({self.name!r})"

    def pixels(self) -> np.ndarray:
        """The picture as `uint8 [height, width, 3]`; what shows through stands on white.

        Raises:
            TvlensError: no such file, no picture in it, or pixels of another form.
        """
        from PIL import Image as Pillow
        from PIL import ImageOps

        source = self.source
        if isinstance(source, np.ndarray):
            return _flat(_from_array(self.name, source))
        if isinstance(source, Pillow.Image):
            return _flat(source)
        try:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            with Pillow.open(io.BytesIO(data)) as opened:
                return _flat(ImageOps.exif_transpose(opened))
        # Pillow's decoders raise what they like on broken files.
        except (OSError, ValueError, SyntaxError, EOFError, Pillow.DecompressionBombError) as error:
            where = f"{len(source)} bytes" if isinstance(source, bytes) else source
            raise TvlensError(f"cannot read the image of {self.name!r}, {where}: {error}") from None

    def thumbnail(self, *, side: int = 64) -> bytes:
        """A PNG file of the picture that fits into a square of `side` pixels, for display."""
        from PIL import Image as Pillow

        small = Pillow.fromarray(self.pixels())
        small.thumbnail((side, side))
        file = io.BytesIO()
        small.save(file, "PNG", optimize=True)
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


def _flat(picture: Any) -> np.ndarray:
    """Any mode as colours, on white where it shows through."""
    from PIL import Image as Pillow

    if picture.mode.startswith(("I", "F")):  # 16 bits and more, which Pillow would cut at 255
        values = np.asarray(picture, dtype=np.float64)
        top = max(values.max(), 255 if values.max() < 256 else 65535)
        picture = Pillow.fromarray((values.clip(0) / top * 255).round().astype(np.uint8))
    layer = picture.convert("RGBA")
    white = Pillow.new("RGBA", layer.size, "white")
    return np.asarray(Pillow.alpha_composite(white, layer).convert("RGB"))
