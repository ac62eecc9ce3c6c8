"""Studies: complete analyses with claims, numbers and a page.

Example:
    >>> model = tv.load("smollm2-135m")
    >>> task = tv.Task.load("singular-plural").subset(range(30))
    >>> study = tv.studies.vectors.run(model, [task], shots=2, contexts=3, progress=False)
    >>> [claim.id for claim in study.claims]
    ['vector-works']
"""

import importlib
from typing import TYPE_CHECKING

from . import methods, patching, vectors
from . import methods_page as methods_page
from . import vectors_page as vectors_page
from .claims import Claim, read_claims, summarize_claims
from .report import StudyReport

# Imported when they are first used: some import Transformers' models.
_PACKAGES = ("crossmodal", "latent", "matrices", "mixtures")

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

if TYPE_CHECKING:
    from . import crossmodal, latent, matrices, mixtures
else:

    def __getattr__(name: str):
        if name not in _PACKAGES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f".{name}", __name__)
