"""Cross-modal task vectors: one task in words and in pictures (Luo et al. 2024)."""

from .image_tasks import ALL, SIX, pictured
from .study import PRESETS, CrossModalStudy, Preset, run

__all__ = ["ALL", "PRESETS", "SIX", "CrossModalStudy", "Preset", "pictured", "run"]
