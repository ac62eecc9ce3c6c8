"""Checks of models against Bayes: behaviour, representation, causes, and what is learnt anew."""

from .ablation import Removal, removal
from .behaviour_check import Behaviour, Yardstick, behaviour, default_references
from .ood import Newcomers, newcomers
from .orthogonal import Learning, learning_directions
from .probing import Probes, probes, task_effects
from .representation_check import Representation, representation
from .state_injection import Injection, injection
from .sufficient_statistics import Explained, explained_by_counts

__all__ = [
    "Behaviour",
    "Explained",
    "Injection",
    "Learning",
    "Newcomers",
    "Probes",
    "Removal",
    "Representation",
    "Yardstick",
    "behaviour",
    "default_references",
    "explained_by_counts",
    "injection",
    "learning_directions",
    "newcomers",
    "probes",
    "removal",
    "representation",
    "task_effects",
]
