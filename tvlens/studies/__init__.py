"""Studies: complete analyses with claims, numbers and a page.

Example:
    >>> model = tv.load("smollm2-135m")
    >>> task = tv.Task.load("singular-plural").subset(range(30))
    >>> study = tv.studies.vectors.run(model, [task], shots=2, contexts=3, progress=False)
    >>> [claim.id for claim in study.claims]
    ['vector-works']
"""

from . import crossmodal, latent, matrices, methods, mixtures, patching, vectors
from . import methods_page as methods_page
from . import vectors_page as vectors_page
from .claims import Claim, read_claims, summarize_claims
from .report import StudyReport

__all__ = [
    "Claim",
    "StudyReport",
    "crossmodal",
    "latent",
    "matrices",
    "methods",
    "mixtures",
    "patching",
    "read_claims",
    "summarize_claims",
    "vectors",
]
