"""Task matrices in place of finetuning, on many datasets (arXiv 2512.14880)."""

from .claims import Claim
from .study import BASES, PRESETS, MatrixStudy, Preset, run

__all__ = ["BASES", "PRESETS", "Claim", "MatrixStudy", "Preset", "run"]
