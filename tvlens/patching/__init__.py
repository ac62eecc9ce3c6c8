"""Exact activation patching, gradient estimates and path patching.

Example:
    >>> model = tv.load("smollm2-135m")
    >>> metric = tv.patching.probability("a")
    >>> tv.patching.patch(model, ["Q: cat A:"], ["Q: dog A:"], site="z", metric=metric).axes
    ('layer', 'head')
"""

from . import show as show
from .activation_patching import patch
from .attribution import attribute
from .metrics import accuracy, kl_divergence, log_probability, logit_difference, probability, rank
from .paths import patch_paths
from .result import PatchResult

__all__ = [
    "PatchResult",
    "accuracy",
    "attribute",
    "kl_divergence",
    "log_probability",
    "logit_difference",
    "patch",
    "patch_paths",
    "probability",
    "rank",
]
