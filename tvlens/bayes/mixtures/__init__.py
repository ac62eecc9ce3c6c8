"""Prompts that mix tasks: a language model's states and answers beside the posterior over tasks."""

from .mixture import Mixture, aligned, label_likelihood, mixed_prompts, pure_prompts
from .posterior import NOISE_MODELS, one_task, proportions, switching
from .posterior_agreement import Agreement, agreement
from .result import RetrievalCheck
from .retrieval import retrieval_check

__all__ = [
    "NOISE_MODELS",
    "Agreement",
    "Mixture",
    "RetrievalCheck",
    "agreement",
    "aligned",
    "label_likelihood",
    "mixed_prompts",
    "one_task",
    "proportions",
    "pure_prompts",
    "retrieval_check",
    "switching",
]
