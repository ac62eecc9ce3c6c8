"""Positions in a running activation: one for all rows, or one per row."""

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import TvlensError
from ..integers import Integers, as_integers


def row_positions(positions: Integers, activation: Tensor) -> Int[Tensor, " row"]:
    """The position to write in each row of an activation `[row, pos, ...]`, on its device.

    Args:
        positions: one position for all rows, or one per row; negative ones count from the end of
            the activation.

    Raises:
        TvlensError: neither one position nor one per row, or one outside the activation.
    """
    rows, length = activation.shape[:2]
    numbers = as_integers(positions, name="positions")
    if len(numbers) not in (1, rows):
        raise TvlensError(f"{len(numbers)} positions for {rows} rows: give one, or one per row")
    for number in numbers:
        if not -length <= number < length:
            raise TvlensError(f"position {number} does not exist: there are 0 to {length - 1}")
    return torch.tensor(numbers, device=activation.device).expand(rows)
