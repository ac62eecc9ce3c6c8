"""Whole studies, each a readable script over the other rooms."""

from . import latent, methods, patching, vectors

__all__ = ["latent", "methods", "patching", "vectors"]
