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
from .mixtures import (
    NOISE_MODELS,
    Agreement,
    Mixture,
    RetrievalCheck,
    agreement,
    aligned,
    label_likelihood,
    mixed_prompts,
    one_task,
    proportions,
    pure_prompts,
    retrieval_check,
    switching,
)
from .prediction import Moments, Prediction, blend
from .references import Family, counts, extrapolation, learner, retrieval, streamed
from .regression import LinearRegression
from .sequences import Pairs, Sequences

__all__ = [
    "Agreement",
    "Dice",
    "Dyck",
    "Family",
    "LinearRegression",
    "Markov",
    "Mixture",
    "Moments",
    "NOISE_MODELS",
    "Pairs",
    "Prediction",
    "RetrievalCheck",
    "Sequences",
    "agreement",
    "aligned",
    "bigram_inference",
    "bigram_retrieval",
    "blend",
    "counts",
    "entropy",
    "extrapolation",
    "gaussian_kl",
    "kl",
    "label_likelihood",
    "learner",
    "mixed_prompts",
    "one_task",
    "proportions",
    "pure_prompts",
    "relative_distance",
    "retrieval",
    "retrieval_check",
    "stationary_distribution",
    "streamed",
    "switching",
    "unigram_inference",
    "unigram_retrieval",
]
