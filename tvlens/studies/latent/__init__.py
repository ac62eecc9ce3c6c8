"""Two modes of task inference in small models trained from scratch (arXiv 2605.03780)."""

from . import page as page
from .config import PRESETS, FamilyConfig
from .registry import TrainedModelResult
from .study import LatentStudy, run

__all__ = ["PRESETS", "FamilyConfig", "LatentStudy", "TrainedModelResult", "run"]
