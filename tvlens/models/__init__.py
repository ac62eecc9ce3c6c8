"""Any model with named hook points, and the zoo of weights that come as packages."""

from .classification_head import classify, head
from .forward import Batch, hooked, is_classifier, logits_at, run
from .inputs import batches
from .loading import is_processed, load, model_name
from .processor import preprocess_images, processor_or_tokenizer
from .prompts import read_prompts
from .readouts import READOUTS, first_token, last_token, mean_token, readout

__all__ = [
    "READOUTS",
    "Batch",
    "batches",
    "classify",
    "first_token",
    "head",
    "hooked",
    "is_classifier",
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
]
