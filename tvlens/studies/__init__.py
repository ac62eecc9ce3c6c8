"""Whole studies, each a readable script over the other rooms."""

from . import vectors

__all__ = ["vectors"]
