"""Teaching a tiny vision-language model to name pictures: only its projector is trained."""

from .named import Named, load_named
from .train import train_vlm

__all__ = ["Named", "load_named", "train_vlm"]
