"""Does a linear map stand in for finetuning? (arXiv 2512.14880)"""

from .claims import Claim
from .study import BASES, PRESETS, MatrixStudy, Preset, run

__all__ = ["BASES", "PRESETS", "Claim", "MatrixStudy", "Preset", "run"]
