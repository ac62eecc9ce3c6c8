"""Helpers that tests of several packages share."""

import signal
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

import tvlens as tv

METRIC = tv.logit_difference(7, 11)

# Models on which patching runs by tree attention.
TREE_ATTENTION = ["gpt2", "llama", "neox", "qwen3", "gemma3", "mistral", "llava"]


def normal(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Standard normal numbers in float64; the same seed and shape give the same numbers."""
    return torch.tensor(np.random.default_rng([seed, *shape]).standard_normal(shape)) + mean


def prompt_pair(length: int = 12, batch: int = 3) -> Tensor:
    """Clean and corrupted token ids of random prompts, [2, batch, position]."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(3, 120, (2, batch, length), generator=generator)


def patch_with_hooks(model, clean, corrupted, site, layer, head, position):
    """Patch with TransformerLens' own hooks in one full forward."""
    address = tv.Site(site, layer)
    name = address.hook(model)
    with torch.no_grad():
        source = {}
        with model.hooks(fwd_hooks=[(name, lambda a, hook: source.update(a=a.clone()))]):
            model(clean)
        axis = {"batch": slice(None), "pos": slice(None) if position is None else position}
        if address.head_axis is not None:
            axis[address.axes[address.head_axis]] = slice(None) if head is None else head
        index = tuple(axis[a] for a in address.axes if a in axis)

        def write(activation, hook):
            activation = activation.clone()
            activation[index] = source["a"][index]
            return activation

        return METRIC(model.run_with_hooks(corrupted, fwd_hooks=[(name, write)]))


def random_vector(model, scale=1.0):
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(3, 32, generator=generator) * scale
    return tv.TaskVector(values, meta={"model": tv.models.model_name(model), "task": "t"})


def without_warnings(function: Callable, *args: Any, **options: Any) -> Any:
    """Call a function that warns, such as patching that takes a slower engine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def restore_signal_handlers() -> None:
    """Restore the handlers of signals that background processes ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def fail_if_called(*_: Any, **__: Any) -> NoReturn:
    """Replace a function that must not be called, such as one whose result is cached."""
    raise AssertionError("a function was called that must not be")


# Options of every check of a latent study, as small as they can be.
TINY_LATENT_CHECKS = {
    "behaviour": {"sequences": 6},
    "representation": {"resamples": 5, "null": 2},
    "posterior_weights": {"sequences": 40, "resamples": 5},
    "injection": {"sequences": 6},
    "ablation": {"sequences": 6, "null": 2},
    "learner_subspace": {"sequences": 6, "restarts": 2, "null": 2, "max_rank": 1},
    "dissociation": {"pairs": 6, "null": 2},
    "simplex_map": {"resolution": 2, "sequences": 4},
    "posterior_injection": {"sequences": 6},
    "statistics_regression": {"sequences": 40, "null": 2},
    "phase_boundary": {"sequences": 6, "largest": 1, "step": 1},
    "prefix": {"sequences": 40, "resamples": 5, "null": 2},
    "novel_tasks": {"tasks": 4, "sequences": 4, "null": 5},
    "checkpoints": {"sequences": 6, "tasks": 3, "sequences_per_task": 3, "per_cell": 2},
}
