"""Helpers that tests of several packages share."""

import signal
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Standard normal numbers in float64; the same seed and shape give the same numbers."""
    return torch.tensor(np.random.default_rng([seed, *shape]).standard_normal(shape)) + mean


def prompt_pair(length: int, batch: int) -> Tensor:
    """Clean and corrupted token ids of random prompts, [2, batch, position]."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(3, 120, (2, batch, length), generator=generator)


def without_warnings(function: Callable, *args: Any, **options: Any) -> Any:
    """Call a function that warns, such as patching that takes a slower engine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def hear_signals() -> None:
    """Handle the signals that processes in the background ignore, as tests there start with."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def fail_if_called(*_: Any, **__: Any) -> NoReturn:
    """Replace a function that must not be called, such as one whose result is cached."""
    raise AssertionError("a function was called that must not be")


# Options of every check of a latent study, as small as they can be.
TINY_LATENT_CHECKS = {
    "behaviour": {"sequences": 6},
    "representation": {"resamples": 5, "null": 2},
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
