"""Training of small transformers and finetuning of encoders, as TransformerLens models.

Example:
    >>> family = tv.bayes.Dice(tasks=3, faces=6, seed=0)
    >>> run = tv.training.train(
    ...     tv.training.TransformerConfig(context=8, vocab=6),
    ...     lambda seed: family.sample(4, 9, seed=seed).tokens,
    ...     steps=2,
    ...     folder="run",
    ...     progress=False,
    ... )
    >>> len(run.metrics) > 0
    True
"""

from typing import TYPE_CHECKING

from ..deprecation import warn_renamed
from . import show as show
from .config import TransformerConfig
from .conversion import to_transformer_lens
from .data import compute_loss, interleave_pairs, step_seed
from .finetuning import FinetunedEncoder, finetune, load_finetuned
from .loop import train
from .run import Run, load_run
from .schedules import constant, cosine, log_steps, triangular
from .transformer import Transformer

__all__ = [
    "FinetunedEncoder",
    "Run",
    "Transformer",
    "TransformerConfig",
    "compute_loss",
    "constant",
    "cosine",
    "finetune",
    "interleave_pairs",
    "load_finetuned",
    "load_run",
    "log_steps",
    "step_seed",
    "to_transformer_lens",
    "train",
    "triangular",
]

# Deprecated name -> its new name.
_DEPRECATED = {
    "Shape": "TransformerConfig",
    "interleaved": "interleave_pairs",
    "loss": "compute_loss",
}

if not TYPE_CHECKING:  # a type checker that saw this would take any name for one of this package

    def __getattr__(name: str):
        if name not in _DEPRECATED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warn_renamed(f"{__name__}.{name}", f"{__name__}.{_DEPRECATED[name]}")
        return globals()[_DEPRECATED[name]]
