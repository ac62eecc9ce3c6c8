"""What the frozen encoder sees of every picture, kept on disk: it never changes, once is enough."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from ...errors import TvlensError
from ...files import write
from ...models.processor import preprocess_images
from ...models.tiny_vlm import Eye
from ...pictures import Pictures
from ...saved import write_tensors
from .augment import augmented, plain

# Pictures of one file: the most that an interruption costs.
_CHUNK = 32

States = Float[Tensor, "picture view seen state"]


def views(
    eye: Eye,
    pictures: Pictures,
    *,
    folder: str | os.PathLike,
    count: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> States:
    """States of `count` views of every image, in half precision.

    The first view is the image on white, the others are random. States on disk are read.

    Cost: a forward of the encoder for each view; 9 KB each on disk.

    Raises:
        TvlensError: the folder holds views made with other settings.
    """
    folder = Path(folder)
    _check_same(folder, eye, pictures, count, seed)
    starts = range(0, len(pictures), _CHUNK)
    parts = []
    for start in tqdm(starts, desc=f"seeing {folder.name}", disable=None if progress else True):
        path = folder / f"from-{start:06d}.safetensors"
        rows = range(start, min(start + _CHUNK, len(pictures)))
        if not path.exists():
            seen = torch.stack([_seen(eye, pictures, row, count, seed) for row in rows])
            write_tensors(path, {"states": seen})
        parts.append(load_file(path)["states"])
    return torch.cat(parts)


def _seen(
    eye: Eye, pictures: Pictures, row: int, count: int, seed: int
) -> Float[Tensor, "view seen state"]:
    size, drawing = eye.vit.config.image_size, pictures.read_pixels(row)
    shown = [plain(drawing, size=size)]
    shown += [augmented(drawing, size=size, seed=(seed, row, view)) for view in range(1, count)]
    return eye(preprocess_images(shown, size=size).to(eye.vit.device)).half().cpu()


def _check_same(folder: Path, eye: Eye, pictures: Pictures, count: int, seed: int) -> None:
    """Write what the views are made from, or compare it with what is there."""
    form = asdict(eye.form)
    about = {key: form[key] for key in ("vision", "layers", "grid")}
    about |= {"dtype": str(eye.vit.dtype).removeprefix("torch.")}
    about |= {"pictures": len(pictures), "first": pictures.names[0], "views": count, "seed": seed}
    about = json.loads(json.dumps(about))
    path = folder / "about.json"
    if not path.exists():
        write(path, json.dumps(about, indent=1))
    elif (there := json.loads(path.read_text())) != about:
        differs = [key for key in about if there.get(key) != about[key]]
        raise TvlensError(f"{folder} holds views of other settings ({', '.join(differs)})")
