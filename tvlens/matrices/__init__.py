"""Task matrices: affine maps from a base model's states to those of its finetuned twin."""

from .baselines import BASELINES, Setting
from .curves import RankCurve, SampleCurve, rank_curve, sample_curve
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
from .gathering import LayerMoments, gather
from .layers import TaskMatrices
from .matrix import TaskMatrix
from .moments import PairMoments
from .readout_states import states
from .report import Difference, MatrixReport, pooled
from .ridge import Ridge
from .sharing import Member, Sharing, share
from .subsets import shared

__all__ = [
    "BASELINES",
    "Difference",
    "Examples",
    "LayerMap",
    "LayerMoments",
    "MatrixReport",
    "Member",
    "PairMoments",
    "RankCurve",
    "Ridge",
    "SampleCurve",
    "Setting",
    "Sharing",
    "TaskMatrices",
    "TaskMatrix",
    "WeightDistance",
    "cka",
    "distance_from_identity",
    "evaluate",
    "gather",
    "layer_map",
    "pooled",
    "r2",
    "r2_by_dimension",
    "rank_curve",
    "sample_curve",
    "share",
    "shared",
    "states",
    "weight_distance",
]
