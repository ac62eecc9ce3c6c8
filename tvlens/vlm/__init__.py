"""A small vision-language model: its images, its architecture and its training.

Example:
    >>> pack = tv.vlm.ImagePack.load()
    >>> "apple" in " ".join(pack.names)
    True
"""

from . import show as show
from .captions import CaptionPrompt
from .checkpoint import TinyVLMProcessor, build_model, load_checkpoint, save_checkpoint
from .image_pack import HELD_OUT_ARTIST, ImagePack
from .initialization import initialize_projector
from .model import (
    MultimodalGemma3,
    MultimodalLlama,
    MultimodalModel,
    Projector,
    TinyVLMConfig,
    VisionEncoder,
)
from .training import VLMRun, load_vlm_run, train_vlm

__all__ = [
    "HELD_OUT_ARTIST",
    "CaptionPrompt",
    "ImagePack",
    "MultimodalGemma3",
    "MultimodalLlama",
    "MultimodalModel",
    "Projector",
    "TinyVLMConfig",
    "TinyVLMProcessor",
    "VLMRun",
    "VisionEncoder",
    "build_model",
    "initialize_projector",
    "load_checkpoint",
    "load_vlm_run",
    "save_checkpoint",
    "train_vlm",
]
