"""Geometry of task representations: subspaces, convex weights, effects, variance, similarity.

Example:
    >>> vectors = torch.eye(3)
    >>> tv.geometry.simplex_weights(torch.ones(1, 3) / 3, vectors)
    tensor([[0.3333, 0.3333, 0.3333]])
"""

from . import show as show
from .effects import Effects, balanced_effects, joint_effects
from .orthogonality import Orthogonality
from .silhouette import SilhouetteTest, silhouette_test
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
from .variance import VarianceDecomposition, between_cell_variance, two_way_variance

__all__ = [
    "VarianceDecomposition",
    "Effects",
    "Orthogonality",
    "SilhouetteTest",
    "SimilarityTable",
    "Subspace",
    "balanced_effects",
    "cka",
    "cosine",
    "cosine_table",
    "debiased_cka",
    "joint_effects",
    "procrustes",
    "two_way_variance",
    "silhouette_test",
    "similarity_table",
    "simplex_weights",
    "between_cell_variance",
]
