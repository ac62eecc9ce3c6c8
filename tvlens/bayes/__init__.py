"""Task families with known truth, and Bayesian references that a model can be held against."""

from .chains import (
    bigram_inference,
    bigram_retrieval,
    stationary_distribution,
    unigram_inference,
    unigram_retrieval,
)
from .dice import Dice
from .divergence import entropy, gaussian_kl, kl, relative_distance
from .dyck import Dyck
from .markov import Markov
from .prediction import Moments, Prediction, blend
from .references import Family, counts, extrapolation, learner, retrieval, streamed
from .regression import LinearRegression
from .sequences import Pairs, Sequences

__all__ = [
    "Dice",
    "Dyck",
    "Family",
    "LinearRegression",
    "Markov",
    "Moments",
    "Pairs",
    "Prediction",
    "Sequences",
    "bigram_inference",
    "bigram_retrieval",
    "blend",
    "counts",
    "entropy",
    "extrapolation",
    "gaussian_kl",
    "kl",
    "learner",
    "relative_distance",
    "retrieval",
    "stationary_distribution",
    "streamed",
    "unigram_inference",
    "unigram_retrieval",
]
