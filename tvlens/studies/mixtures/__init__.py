"""Prompts that mix tasks in a language model: do states and answers follow the posterior?"""

from .claim_table import claims
from .study import MIXTURES, MixtureStudy, run, scrambled

__all__ = ["MIXTURES", "MixtureStudy", "claims", "run", "scrambled"]
