"""Small transformers trained from scratch and encoders finetuned, as TransformerLens models.

Example:
    >>> family = tv.bayes.Dice(tasks=3, faces=6, seed=0)
    >>> run = tv.training.train(
    ...     tv.training.Shape(context=8, vocab=6),
    ...     lambda seed: family.sample(4, 9, seed=seed).tokens,
    ...     steps=2,
    ...     folder="run",
    ...     progress=False,
    ... )
    >>> len(run.metrics) > 0
    True
"""

from . import show as show
from .conversion import to_transformer_lens
from .data import step_seed
from .finetuning import FinetunedEncoder, finetune, load_finetuned
from .loop import train
from .objective import interleaved, loss
from .run import Run, load_run
from .schedules import constant, cosine, log_steps, triangular
from .shape import Shape
from .transformer import Transformer

__all__ = [
    "FinetunedEncoder",
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
