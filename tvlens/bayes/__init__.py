"""Task families with known truth, Bayesian references, and checks of models against them."""

from .behaviour import Behaviour, Yardstick, behaviour, default_references
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
from .injection import Injection, injection
from .learning import Learning, learning_directions
from .markov import Markov
from .newcomers import Newcomers, newcomers
from .prediction import Moments, Prediction, blend
from .probes import Probes, probes, task_effects
from .references import Family, counts, extrapolation, learner, retrieval, streamed
from .regression import LinearRegression
from .removals import Removal, removal
from .representation import Representation, representation
from .sequences import Pairs, Sequences
from .statistics import Explained, explained_by_counts

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
    "default_references",
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
