"""Small transformers trained from scratch and encoders finetuned, as TransformerLens models."""

from .conversion import to_transformer_lens
from .data import step_seed
from .finetuned import Finetuned, load_finetuned
from .finetuning import finetune
from .loop import train
from .objective import interleaved, loss
from .run import Run, load_run
from .schedules import constant, cosine, log_steps, triangular
from .shape import Shape
from .transformer import Transformer

__all__ = [
    "Finetuned",
    "Run",
    "Shape",
    "Transformer",
    "constant",
    "cosine",
    "finetune",
    "to_transformer_lens",
    "interleaved",
    "load_finetuned",
    "load_run",
    "log_steps",
    "loss",
    "step_seed",
    "train",
    "triangular",
]
