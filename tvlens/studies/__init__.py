"""Whole studies, each a readable script over the other rooms."""

from . import crossmodal, latent, matrices, methods, mixtures, patching, vectors

__all__ = ["crossmodal", "latent", "matrices", "methods", "mixtures", "patching", "vectors"]
