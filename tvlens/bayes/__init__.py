"""Task families with known distributions, Bayesian references, and checks of models.

Example:
    >>> family = tv.bayes.Dice(tasks=3, faces=6, seed=0)
    >>> data = family.sample(4, 16, seed=0)
    >>> tv.bayes.retrieval(family, data).posterior.shape
    torch.Size([4, 16, 3])
"""

from . import show as show
from .checks import (
    Ablation,
    Behaviour,
    Injection,
    LearnerSubspace,
    NovelTasks,
    PosteriorWeights,
    PrefixDependence,
    Probes,
    ReferencePredictions,
    Representation,
    StatisticsRegression,
    ablation,
    behaviour,
    default_references,
    injection,
    learner_subspace,
    novel_tasks,
    posterior_weights,
    prefix_dependence,
    probes,
    representation,
    ruled_layers,
    statistics_regression,
    task_effects,
)
from .dice import Dice
from .distributions import entropy, gaussian_kl, kl, relative_distance
from .dyck import Dyck
from .ideal_states import reference_states
from .markov import Markov
from .mixtures import (
    NOISE_MODELS,
    Agreement,
    Mixture,
    RetrievalCheck,
    agreement,
    align_tasks,
    build_mixed_prompts,
    build_pure_prompts,
    label_likelihood,
    proportions_posterior,
    retrieval_check,
    single_task_posterior,
    switching_posterior,
)
from .phase_boundary import PhaseBoundary, solve_phase_boundary
from .pool import TaskPool
from .prediction import Moments, Prediction, blend
from .references import (
    Family,
    bigram_inference,
    bigram_retrieval,
    extrapolation,
    learner,
    predict_in_batches,
    retrieval,
    stationary_distribution,
    sufficient_statistics,
    unigram_inference,
    unigram_retrieval,
)
from .regression import LinearRegression
from .sequences import Pairs, Sequences

__all__ = [
    "Ablation",
    "Agreement",
    "Behaviour",
    "Dice",
    "Dyck",
    "Family",
    "Injection",
    "LearnerSubspace",
    "LinearRegression",
    "Markov",
    "Mixture",
    "Moments",
    "NOISE_MODELS",
    "NovelTasks",
    "Pairs",
    "PosteriorWeights",
    "Prediction",
    "PhaseBoundary",
    "PrefixDependence",
    "Probes",
    "ReferencePredictions",
    "Representation",
    "RetrievalCheck",
    "Sequences",
    "StatisticsRegression",
    "TaskPool",
    "ablation",
    "agreement",
    "align_tasks",
    "behaviour",
    "bigram_inference",
    "bigram_retrieval",
    "blend",
    "build_mixed_prompts",
    "build_pure_prompts",
    "default_references",
    "entropy",
    "extrapolation",
    "gaussian_kl",
    "injection",
    "kl",
    "label_likelihood",
    "learner",
    "learner_subspace",
    "novel_tasks",
    "posterior_weights",
    "predict_in_batches",
    "solve_phase_boundary",
    "prefix_dependence",
    "probes",
    "proportions_posterior",
    "reference_states",
    "relative_distance",
    "representation",
    "retrieval",
    "retrieval_check",
    "ruled_layers",
    "single_task_posterior",
    "stationary_distribution",
    "statistics_regression",
    "sufficient_statistics",
    "switching_posterior",
    "task_effects",
    "unigram_inference",
    "unigram_retrieval",
]
