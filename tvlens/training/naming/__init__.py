"""Teaching a tiny vision-language model to name pictures: only its projector is trained."""

from .captions import PHRASES
from .train import Named, load_named, train_vlm

__all__ = ["PHRASES", "Named", "load_named", "train_vlm"]
