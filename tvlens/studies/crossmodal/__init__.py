"""Cross-modal task vectors: one task shown as text and as images (Luo et al. 2024)."""

from . import figures as figures
from .image_tasks import ALL_TASKS, SIX_TASKS, load_image_tasks
from .study import PRESETS, CrossModalStudy, Preset, run

__all__ = [
    "ALL_TASKS",
    "PRESETS",
    "SIX_TASKS",
    "CrossModalStudy",
    "Preset",
    "load_image_tasks",
    "run",
]
