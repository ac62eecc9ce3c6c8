"""Labelled sets, of texts and of pictures: packed ones, and any that `datasets` can read."""

from .labelled import Labelled
from .presets import GLUE, PRESETS, VISION, Preset

__all__ = ["GLUE", "PRESETS", "VISION", "Labelled", "Preset"]
