"""Task matrices: affine maps from a base model's states to those of a finetuned model.

Example:
    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> moments = tv.matrices.PairMoments().update(x, 2 * x)
    >>> tv.matrices.TaskMatrix.from_moments(moments, ridge="gcv").weight.shape
    torch.Size([4, 4])
"""

from . import show as show
from .affine_map import AffineMap, FitConfig
from .baselines import BASELINES, BaselineData
from .curves import LearningCurve, RankCurve, learning_curve, rank_curve
from .diagnostics import (
    LayerMap,
    WeightDistance,
    cka,
    distance_from_identity,
    layer_map,
    r2,
    r2_by_dimension,
    weight_distance,
)
from .evaluation import evaluate
from .examples import Examples
from .matrix import TaskMatrices, TaskMatrix, fit_models
from .moments import PairMoments
from .reading import LayerMoments, ReadConfig, collect_moments, collect_states
from .report import Difference, MatrixReport, pool_reports
from .ridge import RidgePath
from .sharing import SharingReport, SharingTask, evaluate_sharing, fit_shared_matrices

__all__ = [
    "AffineMap",
    "BASELINES",
    "BaselineData",
    "Difference",
    "Examples",
    "FitConfig",
    "LayerMap",
    "LayerMoments",
    "LearningCurve",
    "MatrixReport",
    "PairMoments",
    "RankCurve",
    "ReadConfig",
    "RidgePath",
    "SharingReport",
    "SharingTask",
    "TaskMatrices",
    "TaskMatrix",
    "WeightDistance",
    "cka",
    "collect_moments",
    "collect_states",
    "distance_from_identity",
    "evaluate",
    "evaluate_sharing",
    "fit_models",
    "fit_shared_matrices",
    "layer_map",
    "learning_curve",
    "pool_reports",
    "r2",
    "r2_by_dimension",
    "rank_curve",
    "weight_distance",
]
