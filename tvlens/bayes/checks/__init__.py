"""Checks of models against Bayesian references: behaviour, representation and interventions."""

from . import show as show
from .ablation_check import Ablation, ablation
from .behaviour_check import Behaviour, ReferencePredictions, behaviour, default_references
from .dissociation_check import Dissociation, dissociation
from .injection_check import Injection, injection
from .learner_search import LearnerSubspace, learner_subspace
from .novel_tasks_check import NovelTasks, novel_tasks
from .posterior_weights_check import PosteriorWeights, posterior_weights
from .prefix_check import PrefixDependence, prefix_dependence
from .probing import Probes, probes, task_effects
from .representation_check import Representation, representation
from .simplex_map_check import SimplexMap, simplex_map
from .states import ruled_layers
from .statistics_check import StatisticsRegression, statistics_regression

__all__ = [
    "Ablation",
    "Behaviour",
    "Dissociation",
    "Injection",
    "LearnerSubspace",
    "NovelTasks",
    "PosteriorWeights",
    "PrefixDependence",
    "Probes",
    "ReferencePredictions",
    "Representation",
    "SimplexMap",
    "StatisticsRegression",
    "ablation",
    "behaviour",
    "default_references",
    "dissociation",
    "injection",
    "learner_subspace",
    "novel_tasks",
    "posterior_weights",
    "prefix_dependence",
    "probes",
    "representation",
    "ruled_layers",
    "simplex_map",
    "statistics_regression",
    "task_effects",
]
