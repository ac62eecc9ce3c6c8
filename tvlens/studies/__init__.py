"""Whole studies, each a readable script over the other rooms."""

from . import latent, methods, mixtures, patching, vectors

__all__ = ["latent", "methods", "mixtures", "patching", "vectors"]
