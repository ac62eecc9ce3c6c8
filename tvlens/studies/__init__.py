"""Whole studies, each a readable script over the other rooms."""

from . import latent, matrices, methods, mixtures, patching, vectors

__all__ = ["latent", "matrices", "methods", "mixtures", "patching", "vectors"]
