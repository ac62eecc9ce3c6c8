"""Task families with known truth, Bayesian references, and checks of models against them."""

from .chains import (
    bigram_inference,
    bigram_retrieval,
    stationary_distribution,
    unigram_inference,
    unigram_retrieval,
)
from .checks import (
    Behaviour,
    Explained,
    Injection,
    Learning,
    Newcomers,
    Probes,
    Removal,
    Representation,
    Yardstick,
    behaviour,
    default_references,
    explained_by_counts,
    injection,
    learning_directions,
    newcomers,
    probes,
    removal,
    representation,
    task_effects,
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
    "Behaviour",
    "Dice",
    "Dyck",
    "Explained",
    "Family",
    "Injection",
    "Learning",
    "LinearRegression",
    "Markov",
    "Moments",
    "Newcomers",
    "Pairs",
    "Prediction",
    "Probes",
    "Removal",
    "Representation",
    "Sequences",
    "Yardstick",
    "behaviour",
    "bigram_inference",
    "bigram_retrieval",
    "blend",
    "counts",
    "default_references",
    "entropy",
    "explained_by_counts",
    "extrapolation",
    "gaussian_kl",
    "injection",
    "kl",
    "learner",
    "learning_directions",
    "newcomers",
    "probes",
    "relative_distance",
    "removal",
    "representation",
    "retrieval",
    "stationary_distribution",
    "streamed",
    "task_effects",
    "unigram_inference",
    "unigram_retrieval",
]
