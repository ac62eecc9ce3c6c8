"""Task vectors: extract them, write them into a model, evaluate them against controls."""

from .evaluate import evaluate
from .extract import METHODS, extract
from .lens import top_tokens
from .report import VectorReport
from .score import Row, Scores, score
from .vector import TaskVector

__all__ = [
    "METHODS",
    "Row",
    "Scores",
    "TaskVector",
    "VectorReport",
    "evaluate",
    "extract",
    "score",
    "top_tokens",
]
