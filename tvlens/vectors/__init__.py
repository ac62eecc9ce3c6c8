"""Task vectors: extract them, write them into a model, evaluate them against controls."""

from .evaluate import evaluate
from .extract import METHODS, extract
from .lens import top_tokens
from .phases import Phases, phases
from .report import VectorReport
from .score import Row, Scores, score
from .vector import TaskVector

__all__ = [
    "METHODS",
    "Phases",
    "Row",
    "Scores",
    "TaskVector",
    "VectorReport",
    "evaluate",
    "extract",
    "phases",
    "score",
    "top_tokens",
]
