"""Any model with named hook points, and the zoo of weights that come as packages."""

from .forward import Batch, hooked, logits_at, run
from .load import is_processed, load, model_name

__all__ = ["Batch", "hooked", "is_processed", "load", "logits_at", "model_name", "run"]
