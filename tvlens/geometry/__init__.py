"""The shape of tasks: subspaces against random ones, convex weights, effects, similarity."""

from . import show as show
from .decomposition import Decomposition, separability, stability
from .effects import Effects, balanced_effects, joint_effects
from .orthogonality import Orthogonality
from .silhouette import Separation, separation
from .similarity import (
    SimilarityTable,
    cka,
    cosine,
    cosine_table,
    debiased_cka,
    procrustes,
    similarity_table,
)
from .simplex import simplex_weights
from .subspace import Subspace

__all__ = [
    "Decomposition",
    "Effects",
    "Orthogonality",
    "Separation",
    "SimilarityTable",
    "Subspace",
    "balanced_effects",
    "cka",
    "cosine",
    "cosine_table",
    "debiased_cka",
    "joint_effects",
    "procrustes",
    "separability",
    "separation",
    "similarity_table",
    "simplex_weights",
    "stability",
]
