"""Validation of the inputs of geometric measures."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError


def as_float64(name: str, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the values in float64, in which all geometry is computed.

    Raises:
        TvlensError: `values` is empty, or a number is NaN or infinite.
    """
    if not values.numel():
        raise TvlensError(f"{name} is empty: its shape is {list(values.shape)}")
    invalid = ~values.isfinite()
    if invalid.any():
        first = invalid.nonzero()[0].tolist()
        raise TvlensError(
            f"{int(invalid.sum())} of {invalid.numel()} numbers in {name} are NaN or infinite, "
            f"first at {first}"
        )
    return values.detach().double()


def result_dtype(*values: Float[Tensor, "..."]) -> torch.dtype:
    """Return the dtype of a result: the common dtype of its inputs, but at least float32."""
    dtype = torch.float32
    for tensor in values:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def check_same_width(
    name: str, values: Float[Tensor, "... d"], other_name: str, other: Float[Tensor, "... width"]
) -> None:
    """Raise TvlensError unless the last axes have the same length."""
    if values.shape[-1] != other.shape[-1]:
        raise TvlensError(
            f"{name} has width {values.shape[-1]} and {other_name} has width {other.shape[-1]}"
        )


def check_same_length(
    name: str, values: Float[Tensor, "n ..."], other_name: str, other: Float[Tensor, "m ..."]
) -> None:
    """Raise TvlensError unless both have the same number of rows."""
    if len(values) != len(other):
        raise TvlensError(f"{name} has {len(values)} rows and {other_name} has {len(other)}")


def as_labels(name: str, values: Int[Tensor, "..."], shape: torch.Size) -> Int[Tensor, "..."]:
    """Return labels as int64 on the CPU, one per row.

    Raises:
        TvlensError: the shape differs from `shape`, or a label is negative.
    """
    if values.shape != shape:
        raise TvlensError(f"{name} has shape {list(values.shape)}; {list(shape)} is needed")
    if (values < 0).any():
        raise TvlensError(
            f"{name} holds the label {int(values.min())}: leave out the rows without a known label"
        )
    return values.long().cpu()
