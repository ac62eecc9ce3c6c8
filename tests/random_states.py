"""Random states for tests, in float64."""

import numpy as np
import torch


def normal(*shape: int, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    """Standard normal numbers, other ones for another shape, shifted by `mean`."""
    return torch.tensor(np.random.default_rng([seed, *shape]).standard_normal(shape)) + mean
