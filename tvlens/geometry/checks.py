"""What every measure asks of its input before it starts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError


def exact(name: str, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The values in float64, in which all geometry is computed.

    Raises:
        TvlensError: nothing there, or a number that is NaN or infinite.
    """
    if not values.numel():
        raise TvlensError(f"{name} is empty: its shape is {list(values.shape)}")
    bad = ~values.isfinite()
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise TvlensError(
            f"{int(bad.sum())} of {bad.numel()} numbers in {name} are NaN or infinite, "
            f"first at {first}"
        )
    return values.detach().double()


def kept_dtype(*values: Float[Tensor, "..."]) -> torch.dtype:
    """The dtype of a result: that of its inputs, but at least float32."""
    dtype = torch.float32
    for one in values:
        dtype = torch.promote_types(dtype, one.dtype)
    return dtype


def same_width(
    name: str, values: Float[Tensor, "... d"], other_name: str, other: Float[Tensor, "... width"]
) -> None:
    """Raise TvlensError unless the last axes are equally long."""
    if values.shape[-1] != other.shape[-1]:
        raise TvlensError(
            f"{name} has width {values.shape[-1]} and {other_name} has width {other.shape[-1]}"
        )


def same_length(
    name: str, values: Float[Tensor, "n ..."], other_name: str, other: Float[Tensor, "m ..."]
) -> None:
    """Raise TvlensError unless there are as many rows."""
    if len(values) != len(other):
        raise TvlensError(f"{name} has {len(values)} rows and {other_name} has {len(other)}")


def labels(name: str, values: Int[Tensor, "..."], shape: torch.Size) -> Int[Tensor, "..."]:
    """Labels as int64 on the CPU, one for each row.

    Raises:
        TvlensError: another number of labels than rows, or a negative label.
    """
    if values.shape != shape:
        raise TvlensError(f"{name} has shape {list(values.shape)}; {list(shape)} is needed")
    if (values < 0).any():
        raise TvlensError(
            f"{name} holds the label {int(values.min())}: leave out the rows without a known label"
        )
    return values.long().cpu()
