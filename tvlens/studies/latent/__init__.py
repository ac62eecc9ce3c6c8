"""Two modes of task inference in small models trained from scratch (arXiv 2605.03780)."""

from .cell import Cell
from .claim import Claim
from .plan import PRESETS, Plan
from .study import LatentStudy, run

__all__ = ["PRESETS", "Cell", "Claim", "LatentStudy", "Plan", "run"]
