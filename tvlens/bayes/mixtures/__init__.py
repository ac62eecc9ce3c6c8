"""Prompts that mix tasks: states and answers of a language model beside posteriors over tasks."""

from . import show as show
from .noise_models import (
    NOISE_MODELS,
    proportions_posterior,
    single_task_posterior,
    switching_posterior,
)
from .posterior_agreement import Agreement, agreement
from .prompts import (
    Mixture,
    align_tasks,
    build_mixed_prompts,
    build_pure_prompts,
    label_likelihood,
)
from .result import RetrievalCheck
from .retrieval import retrieval_check

__all__ = [
    "NOISE_MODELS",
    "Agreement",
    "Mixture",
    "RetrievalCheck",
    "agreement",
    "align_tasks",
    "build_mixed_prompts",
    "build_pure_prompts",
    "label_likelihood",
    "proportions_posterior",
    "retrieval_check",
    "single_task_posterior",
    "switching_posterior",
]
