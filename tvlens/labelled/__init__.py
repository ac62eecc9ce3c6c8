"""Labelled datasets of texts and of images: packaged ones, and any that `datasets` can read."""

from .dataset import GLUE, HUB_DATASETS, VISION, HubDataset, LabelledDataset

__all__ = ["GLUE", "HUB_DATASETS", "VISION", "HubDataset", "LabelledDataset"]
