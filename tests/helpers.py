"""Helpers that tests of several packages share."""

from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Standard normal numbers in float64; the same seed and shape give the same numbers."""
    return torch.tensor(np.random.default_rng([seed, *shape]).standard_normal(shape)) + mean


def fail_if_called(*_: Any, **__: Any) -> NoReturn:
    """Replace a function that must not be called, such as one whose result is cached."""
    raise AssertionError("a function was called that must not be")
