"""Prompts that mix tasks: states and answers of a language model against posteriors over tasks."""

from . import page as page
from .claims import compute_claims
from .study import MIXTURES, MixtureStudy, run, scrambled_weights

__all__ = ["MIXTURES", "MixtureStudy", "compute_claims", "run", "scrambled_weights"]
