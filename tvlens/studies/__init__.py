"""Whole studies, each a readable script over the other rooms."""

from . import methods, patching, vectors

__all__ = ["methods", "patching", "vectors"]
