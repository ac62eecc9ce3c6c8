"""Small transformers, trained from scratch and opened as TransformerLens models."""

from .data import step_seed
from .hooked import hooked
from .loop import train
from .objective import interleaved, loss
from .run import Run, load_run
from .schedules import constant, cosine, log_steps, triangular
from .shape import Shape
from .transformer import Transformer

__all__ = [
    "Run",
    "Shape",
    "Transformer",
    "constant",
    "cosine",
    "hooked",
    "interleaved",
    "load_run",
    "log_steps",
    "loss",
    "step_seed",
    "train",
    "triangular",
]
