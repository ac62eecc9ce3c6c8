"""Samples of a family: token sequences or input-target pairs, with the task of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError

if TYPE_CHECKING:
    import pandas

BatchType = TypeVar("BatchType", bound="_Batch")


class _Batch:
    """Tensors that share their first axis and are indexed and moved together."""

    task: Tensor

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self: BatchType, rows: Any) -> BatchType:
        """Select rows by a slice, a mask or indices."""
        return self._map_tensors(lambda tensor: tensor[rows])

    def to(self: BatchType, device: str | torch.device) -> BatchType:
        """Move all tensors to a device."""
        return self._map_tensors(lambda tensor: tensor.to(device))

    def _map_tensors(self: BatchType, change: Callable[[Tensor], Tensor]) -> BatchType:
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        changed = {name: change(tensor) for name, tensor in tensors.items()}
        return cast(BatchType, replace(cast(Any, self), **changed))


@dataclass(frozen=True)
class Sequences(_Batch):
    """Token sequences, each from one latent task.

    Attributes:
        tokens: the sequences.
        task: index of each sequence's task in the family's pool; -1 for a task outside it.
        parameters: the true task of each sequence.
        split: the split that was sampled ("train", "major", "minor", "ood", "tasks").
    """

    tokens: Int[Tensor, "n length"]
    task: Int[Tensor, " n"]
    parameters: Float[Tensor, "n ..."]
    split: str = "train"

    def __repr__(self) -> str:
        return f"Sequences({len(self)} x {self.tokens.shape[1]} tokens, split {self.split!r})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per token: sequence, position, task, token."""
        import pandas as pd

        return pd.DataFrame(
            _index_columns(self.task, self.tokens) | {"token": _flatten(self.tokens)}
        )


@dataclass(frozen=True)
class Pairs(_Batch):
    """Input-target pairs of linear regressions, each row from one latent weight vector.

    Attributes:
        inputs: the x of every pair.
        targets: the y of every pair.
        task: index of each row's task in the family's pool; -1 for a task outside it.
        parameters: the true weights of each row.
        split: the split that was sampled.
    """

    inputs: Float[Tensor, "n length dim"]
    targets: Float[Tensor, "n length"]
    task: Int[Tensor, " n"]
    parameters: Float[Tensor, "n dim"]
    split: str = "train"

    def __repr__(self) -> str:
        n, length, dim = self.inputs.shape
        return f"Pairs({n} x {length} pairs of dimension {dim}, split {self.split!r})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair: row, position, task, x0, x1, ..., y."""
        import pandas as pd

        columns = {f"x{i}": _flatten(x) for i, x in enumerate(self.inputs.unbind(-1))}
        return pd.DataFrame(
            _index_columns(self.task, self.targets) | columns | {"y": _flatten(self.targets)}
        )


Data = Sequences | Pairs | Tensor


def data_shape(data: Data) -> tuple[int, int]:
    """Return the number of sequences and their length.

    Raises:
        TvlensError: the data are not Sequences, Pairs or a tensor [n length], or are empty.
    """
    values = data
    if isinstance(data, Sequences | Pairs):
        values = data.tokens if isinstance(data, Sequences) else data.targets
    if not isinstance(values, Tensor):
        raise TvlensError(f"expected sequences or a tensor of tokens, not {type(data).__name__}")
    if values.ndim != 2 or not values.numel():
        raise TvlensError(f"data have shape [n >= 1, length >= 1], not {list(values.shape)}")
    return values.shape[0], values.shape[1]


def as_tokens(data: Data, vocabulary: int) -> Int[Tensor, "n length"]:
    """Convert sequences or a tensor of tokens to an int64 tensor.

    Raises:
        TvlensError: the data are not integers [n length], are empty, or hold a token outside the
            vocabulary.
    """
    data_shape(data)
    if isinstance(data, Pairs):
        raise TvlensError("this family reads tokens, not the input-target pairs of a regression")
    tokens = data.tokens if isinstance(data, Sequences) else data
    if tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
        raise TvlensError(f"tokens are integers, not {tokens.dtype}: convert them with .long()")
    outside = (tokens < 0) | (tokens >= vocabulary)
    if bool(outside.any()):
        row, position = outside.nonzero()[0].tolist()
        raise TvlensError(
            f"token {int(tokens[row, position])} at position {position} is outside the vocabulary "
            f"0..{vocabulary - 1}"
        )
    return tokens.long()


def as_pairs(
    data: Data, dim: int
) -> tuple[Float[Tensor, "n length dim"], Float[Tensor, "n length"]]:
    """Return inputs and targets in float64.

    Raises:
        TvlensError: the data are not Pairs, have the wrong dimension or length, are empty, or hold
            a non-finite number.
    """
    if not isinstance(data, Pairs):
        raise TvlensError(
            f"a regression reads Pairs (inputs and targets), not {_describe_kind(data)}"
        )
    inputs, targets = data.inputs.double(), data.targets.double()
    expected = (*data_shape(data), dim)
    if inputs.shape != expected:
        raise TvlensError(f"inputs have shape {list(expected)}, not {list(inputs.shape)}")
    if not bool(inputs.isfinite().all() and targets.isfinite().all()):
        raise TvlensError("inputs or targets hold NaN or infinity")
    return inputs, targets


def _describe_kind(data: object) -> str:
    return f"a tensor of {data.dtype}" if isinstance(data, Tensor) else type(data).__name__


def _flatten(values: Tensor) -> list:
    return values.flatten().tolist()


def _index_columns(task: Tensor, like: Tensor) -> dict[str, list]:
    n, length = like.shape
    rows, positions = torch.meshgrid(torch.arange(n), torch.arange(length), indexing="ij")
    tasks = task[:, None].expand(n, length)
    return {"sequence": _flatten(rows), "position": _flatten(positions), "task": _flatten(tasks)}
