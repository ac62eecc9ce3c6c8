"""Learning-rate schedules, as functions of the step, and the steps of checkpoints."""

import math
from collections.abc import Callable

# (step, steps, peak) -> the learning rate of the update from `step` to `step + 1`.
Schedule = Callable[[int, int, float], float]

FLOOR = 1e-5


def triangular(step: int, steps: int, peak: float) -> float:
    """Linear increase over the first half, then linear decay to 1e-5 (arXiv 2605.03780)."""
    half = steps / 2
    if step + 1 <= half:
        return peak * (step + 1) / half
    share = (step + 1 - half) / (steps - half)
    return peak + share * (min(FLOOR, peak) - peak)


def cosine(step: int, steps: int, peak: float) -> float:
    """Cosine decay from the peak to zero (Loshchilov and Hutter 2017)."""
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


def constant(step: int, steps: int, peak: float) -> float:
    """Constant learning rate."""
    return peak


def log_steps(steps: int) -> list[int]:
    """The steps 0, 1, 2, 4, 8, ... and the last one."""
    return sorted({0, steps, *(2**k for k in range(steps.bit_length()) if 2**k <= steps)})
