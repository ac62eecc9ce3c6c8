"""tvlens: find task vectors in transformers, measure their shape, test them, move them.

Importing this answers at once: PyTorch and TransformerLens are imported when a model is.
"""

import importlib
import warnings
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# In a notebook tqdm would say on the first page that its bars are plain text without ipywidgets,
# which is what they are everywhere else.
warnings.filterwarnings("ignore", message="IProgress not found")

# Public name -> the module that holds it.
_WHERE = {
    "TvlensError": "errors",
    "load": "models.load",
    "zoo": "models.zoo",
    "Site": "sites",
    "Task": "tasks",
    "Image": "tasks",
    "Template": "tasks",
    "Labelled": "labelled",
    "Pictures": "pictures",
    "collect": "activations",
    "extract": "vectors",
    "evaluate": "vectors",
    "TaskVector": "vectors",
    "patch": "patching",
    "patch_paths": "patching",
    "attribute": "patching",
    "PatchResult": "patching",
    "logit_difference": "patching",
    "probability": "patching",
    "log_probability": "patching",
    "rank": "patching",
    "accuracy": "patching",
    "kl_divergence": "patching",
    "Subspace": "geometry",
    "simplex_weights": "geometry",
    "geometry": "geometry",
    "PairMoments": "matrices",
    "TaskMatrix": "matrices",
    "matrices": "matrices",
    "bayes": "bayes",
    "finetune": "training",
    "train_vlm": "training.naming",
    "training": "training",
    "studies": "studies",
    "viz": "viz",
}

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from . import bayes, geometry, matrices, studies, training, viz
    from .activations import collect
    from .errors import TvlensError
    from .geometry import Subspace, simplex_weights
    from .labelled import Labelled
    from .matrices import PairMoments, TaskMatrix
    from .models import zoo
    from .models.load import load
    from .patching import (
        PatchResult,
        accuracy,
        attribute,
        kl_divergence,
        log_probability,
        logit_difference,
        patch,
        patch_paths,
        probability,
        rank,
    )
    from .pictures import Pictures
    from .sites import Site
    from .tasks import Image, Task, Template
    from .training import finetune
    from .training.naming import train_vlm
    from .vectors import TaskVector, evaluate, extract


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'tvlens' has no attribute {name!r}")
    module = importlib.import_module(f".{_WHERE[name]}", __name__)
    last = _WHERE[name].rsplit(".", 1)[-1]
    value = module if last == name and not hasattr(module, name) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
