"""The shape of tasks: subspaces against random ones, convex weights, effects."""

from .decomposition import Decomposition, separability, stability
from .effects import Effects, balanced_effects, joint_effects
from .orthogonality import Orthogonality
from .simplex import simplex_weights
from .subspace import Subspace

__all__ = [
    "Decomposition",
    "Effects",
    "Orthogonality",
    "Subspace",
    "balanced_effects",
    "joint_effects",
    "separability",
    "simplex_weights",
    "stability",
]
