"""The shape of tasks: subspaces against random ones, and convex weights."""

from .orthogonality import Orthogonality
from .simplex import simplex_weights
from .subspace import Subspace

__all__ = ["Orthogonality", "Subspace", "simplex_weights"]
