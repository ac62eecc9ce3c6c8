"""Whole studies, each a readable script over the other rooms."""

from . import matrices, methods, patching, vectors

__all__ = ["matrices", "methods", "patching", "vectors"]
