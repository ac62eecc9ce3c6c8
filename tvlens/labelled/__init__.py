"""Labelled datasets of texts and of images: packaged ones, and any that `datasets` can read.

Example:
    >>> texts = [f"{word} {i}" for i in range(20) for word in ("cat", "red")]
    >>> labels = [0, 1] * 20
    >>> dataset = tv.LabelledDataset("topic", texts, labels, ["animal", "color"])
    >>> [len(part) for part in dataset.split(seed=0)]
    [...]
"""

from .dataset import GLUE, HUB_DATASETS, VISION, HubDataset, LabelledDataset

__all__ = ["GLUE", "HUB_DATASETS", "VISION", "HubDataset", "LabelledDataset"]
