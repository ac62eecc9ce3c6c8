"""Models with named hook points, and the zoo of packaged weights.

Example:
    >>> model = tv.load("smollm2-135m")
    >>> tv.models.model_name(model)
    'smollm2-135m'
"""

from .classification import classifier_head, classify
from .families import Family, family
from .forward import Batch, logits_at, run
from .hooks import with_hooks
from .inputs import batches
from .loading import is_processed, load, model_name
from .processor import preprocess_images, processor_or_tokenizer
from .prompts import read_prompts
from .readouts import READOUTS, first_token, last_token, mean_token, readout

__all__ = [
    "READOUTS",
    "Batch",
    "Family",
    "batches",
    "classifier_head",
    "classify",
    "family",
    "first_token",
    "is_processed",
    "last_token",
    "load",
    "logits_at",
    "mean_token",
    "model_name",
    "preprocess_images",
    "processor_or_tokenizer",
    "read_prompts",
    "readout",
    "run",
    "with_hooks",
]
