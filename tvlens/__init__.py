"""tvlens: extract, localize, compare and evaluate task vectors of transformers.

The import is fast: PyTorch and TransformerLens are imported when they are first used.
"""

import importlib
import warnings
from typing import TYPE_CHECKING

from .deprecation import warn_renamed

__version__ = "0.1.0"

# Without ipywidgets, tqdm warns in notebooks that its progress bars are plain text.
warnings.filterwarnings("ignore", message="IProgress not found")

# Parts of the package, imported when they are first asked for.
_MODULES = (
    "activations",
    "bayes",
    "errors",
    "geometry",
    "labelled",
    "matrices",
    "models",
    "patching",
    "sites",
    "stats",
    "studies",
    "tasks",
    "training",
    "vectors",
    "viz",
    "vlm",
)

# Public name -> the module that holds it.
_NAMES = {
    "TvlensError": "errors",
    "load": "models",
    "zoo": "models",
    "Site": "sites",
    "Task": "tasks",
    "Image": "tasks",
    "Template": "tasks",
    "LabelledDataset": "labelled",
    "ImagePack": "vlm",
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
    "PairMoments": "matrices",
    "TaskMatrix": "matrices",
    "finetune": "training",
    "train_vlm": "vlm",
}

# Deprecated public name -> its new name.
_DEPRECATED = {"Labelled": "LabelledDataset", "Pictures": "ImagePack"}

__all__ = ["__version__", *_NAMES, *_MODULES]

if TYPE_CHECKING:
    from . import activations as activations
    from . import bayes as bayes
    from . import errors as errors
    from . import geometry as geometry
    from . import labelled as labelled
    from . import matrices as matrices
    from . import models as models
    from . import patching as patching
    from . import sites as sites
    from . import stats as stats
    from . import studies as studies
    from . import tasks as tasks
    from . import training as training
    from . import vectors as vectors
    from . import viz as viz
    from . import vlm as vlm
    from .activations import collect as collect
    from .errors import TvlensError as TvlensError
    from .geometry import Subspace as Subspace
    from .geometry import simplex_weights as simplex_weights
    from .labelled import LabelledDataset as LabelledDataset
    from .matrices import PairMoments as PairMoments
    from .matrices import TaskMatrix as TaskMatrix
    from .models import load as load
    from .models import zoo as zoo
    from .patching import PatchResult as PatchResult
    from .patching import accuracy as accuracy
    from .patching import attribute as attribute
    from .patching import kl_divergence as kl_divergence
    from .patching import log_probability as log_probability
    from .patching import logit_difference as logit_difference
    from .patching import patch as patch
    from .patching import patch_paths as patch_paths
    from .patching import probability as probability
    from .patching import rank as rank
    from .sites import Site as Site
    from .tasks import Image as Image
    from .tasks import Task as Task
    from .tasks import Template as Template
    from .training import finetune as finetune
    from .vectors import TaskVector as TaskVector
    from .vectors import evaluate as evaluate
    from .vectors import extract as extract
    from .vlm import ImagePack as ImagePack
    from .vlm import train_vlm as train_vlm
else:  # a type checker that saw this would take any name for one of tvlens

    def __getattr__(name: str):
        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name in _DEPRECATED:
            warn_renamed(f"tvlens.{name}", f"tvlens.{_DEPRECATED[name]}")
            return __getattr__(_DEPRECATED[name])
        if name not in _NAMES:
            raise AttributeError(f"module 'tvlens' has no attribute {name!r}")
        module = importlib.import_module(f".{_NAMES[name]}", __name__)
        try:
            value = getattr(module, name)
        except AttributeError:  # a module within a module, such as the zoo
            value = importlib.import_module(f"{module.__name__}.{name}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
