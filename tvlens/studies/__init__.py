"""Whole studies, each a readable script over the other rooms."""

from . import methods, mixtures, patching, vectors

__all__ = ["methods", "mixtures", "patching", "vectors"]
