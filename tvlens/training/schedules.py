"""Learning rates and checkpoints over a run, as plain functions of the step."""

import math
from collections.abc import Callable

# (step, steps, peak) -> the learning rate of the update that makes step + 1 out of step.
Schedule = Callable[[int, int, float], float]

FLOOR = 1e-5


def triangular(step: int, steps: int, peak: float) -> float:
    """Up in a straight line over the first half, then down to 1e-5 (arXiv 2605.03780)."""
    half = steps / 2
    if step + 1 <= half:
        return peak * (step + 1) / half
    share = (step + 1 - half) / (steps - half)
    return peak + share * (min(FLOOR, peak) - peak)


def cosine(step: int, steps: int, peak: float) -> float:
    """From the peak down to zero along half a cosine (Loshchilov and Hutter 2017)."""
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


def constant(step: int, steps: int, peak: float) -> float:
    """The peak, all the way."""
    return peak


def log_steps(steps: int) -> list[int]:
    """0, 1, 2, 4, 8, ... and the last step."""
    return sorted({0, steps, *(2**k for k in range(steps.bit_length()) if 2**k <= steps)})
