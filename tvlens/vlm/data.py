"""Training data of the projector: splits of the images, and their cached encoder states."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..files import write
from ..models.processor import preprocess_images
from ..progress import progress_bar
from ..saved import read_entry, read_tensors, write_tensors
from .augmentation import States, render_on_white, render_random_view, same_category_pairs
from .captions import TEMPLATES, CaptionPrompt, NameIds, name_ids
from .image_pack import HELD_OUT_ARTIST, ImagePack
from .model import VisionEncoder

# The test splits: "train" holds the other artists' images of the other categories.
TEST_SPLITS = ("new_artist", "new_categories", "new_artist_and_category")

# Images per file; an interruption loses at most the views of one file.
_IMAGES_PER_FILE = 32


def split_images(
    images: ImagePack,
    *,
    held_out_artist: str = HELD_OUT_ARTIST,
    held_out_share: float = 0.1,
    seed: int = 0,
) -> dict[str, ImagePack]:
    """Split images into "train" and the three test splits, without common images.

    Args:
        images: images of several artists.
        held_out_artist: artist whose images are in the test splits only.
        held_out_share: share of the categories of every kind that are in the test splits only.
        seed: seed of the held-out categories.

    Raises:
        TvlensError: no such artist, or an empty split.
    """
    images.where(artist=held_out_artist)  # raises for an unknown artist
    held_out_names = images.sample_names(share=held_out_share, seed=seed)
    split_of = {
        (False, False): "train",
        (True, False): "new_artist",
        (False, True): "new_categories",
        (True, True): "new_artist_and_category",
    }
    rows: dict[str, list[int]] = {split: [] for split in split_of.values()}
    for i, (name, artist) in enumerate(zip(images.names, images.artists, strict=True)):
        rows[split_of[artist == held_out_artist, name in held_out_names]].append(i)
    for split, indices in rows.items():
        if not indices:
            raise TvlensError(f"the split {split!r} contains no image")
    return {split: images.subset(indices) for split, indices in rows.items()}


@dataclass(frozen=True)
class TrainingData:
    """Inputs and targets of training and evaluation.

    Attributes:
        states: encoder states of every view, by split.
        names: token ids of the names, by split.
        kinds: kinds of the images of "new_artist", for accuracy by kind.
        prompts: caption prompts, one per template.
        pairs: training images of the same category, for style offsets.
    """

    states: Mapping[str, States]
    names: Mapping[str, NameIds]
    kinds: Sequence[str]
    prompts: Sequence[CaptionPrompt]
    pairs: np.ndarray

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        splits: Mapping[str, ImagePack],
        states: Mapping[str, States],
    ) -> "TrainingData":
        """Tokenize the names of the splits and prepare the prompts."""
        names = {
            split: [name_ids(tokenizer, name) for name in images.names]
            for split, images in splits.items()
        }
        prompts = [CaptionPrompt.of(model, tokenizer, template) for template in TEMPLATES]
        pairs = same_category_pairs(splits["train"].names)
        return cls(states, names, splits["new_artist"].kinds, prompts, pairs)


def encode_views(
    encoder: VisionEncoder,
    images: ImagePack,
    *,
    folder: str | os.PathLike,
    count: int = 1,
    seed: int = 0,
    progress: bool | None = None,
) -> States:
    """Encode views of every image in half precision, and cache them in a folder.

    Args:
        encoder: frozen, so that every view is encoded once.
        images: rows of the result.
        folder: folder of the cached states; files that exist are read.
        count: views of each image: the first on white, the others random.
        seed: seed of the random views.
        progress: whether to show a progress bar; by default on a terminal.

    Cost: one forward pass of the encoder and 9 KB on disk per view.

    Raises:
        TvlensError: the folder holds views of other settings.
    """
    folder = Path(folder)
    _check_settings(folder, encoder, images, count, seed)
    starts = range(0, len(images), _IMAGES_PER_FILE)
    chunks = []
    for start in progress_bar(starts, desc=f"encoding {folder.name}", progress=progress):
        path = folder / f"from-{start:06d}.safetensors"
        chunk = read_entry(path, _read_states)
        if chunk is None:
            rows = range(start, min(start + _IMAGES_PER_FILE, len(images)))
            chunk = torch.stack(
                [
                    _encode_image(encoder, images.read_pixels(row), (seed, row), count)
                    for row in rows
                ]
            )
            write_tensors(path, {"states": chunk})
        chunks.append(chunk)
    return torch.cat(chunks)


def _read_states(path: Path) -> States:
    return read_tensors(path, kind="", what="states of images", needs=["states"])[0]["states"]


def _encode_image(
    encoder: VisionEncoder, pixels: np.ndarray, seed: tuple[int, int], count: int
) -> Float[Tensor, "view state d_vision"]:
    size = encoder.vit.config.image_size
    views = [render_on_white(pixels, size=size)]
    views += [render_random_view(pixels, size=size, seed=(*seed, view)) for view in range(1, count)]
    states: Tensor = (
        encoder(preprocess_images(views, size=size).to(encoder.vit.device)).half().cpu()
    )
    return states


def _check_settings(
    folder: Path, encoder: VisionEncoder, images: ImagePack, count: int, seed: int
) -> None:
    """Write the settings of the views, or compare them with those in the folder."""
    config = asdict(encoder.config)
    settings = {key: config[key] for key in ("vision_model", "layers", "grid")}
    settings |= {"dtype": str(encoder.vit.dtype).removeprefix("torch.")}
    settings |= {"images": len(images), "first": images.names[0], "views": count, "seed": seed}
    settings = json.loads(json.dumps(settings))
    path = folder / "views.json"
    if not path.exists():
        write(path, json.dumps(settings, indent=1))
    elif (existing := json.loads(path.read_text())) != settings:
        different = [key for key in settings if existing.get(key) != settings[key]]
        raise TvlensError(f"{folder} contains views with other settings ({', '.join(different)})")
