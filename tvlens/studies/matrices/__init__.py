"""Task matrices instead of finetuning, on many datasets (arXiv 2512.14880)."""

from . import page as page
from .dataset import DatasetResult
from .study import BASES, PRESETS, MatrixStudy, Preset, run

__all__ = ["BASES", "PRESETS", "DatasetResult", "MatrixStudy", "Preset", "run"]
