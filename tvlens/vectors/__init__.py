"""Task vectors: extraction, application, and evaluation against controls.

Example:
    >>> model = tv.load("smollm2-135m")
    >>> train, *_ = tv.Task.load("singular-plural").split(seed=0)
    >>> vector = tv.vectors.extract(model, train, method="difference", shots=2, contexts=3)
    >>> vector.mode
    'add'
"""

from . import show as show
from .evaluation import evaluate
from .extraction import METHODS, extract
from .logit_lens import Phases, phases, top_tokens
from .report import VectorReport
from .scoring import Row, Scores, score
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
