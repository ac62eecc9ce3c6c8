"""Leaving a model early, through an affine map."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..models.hooks import replace_at, skip_blocks, with_hooks
from ..sites import Site

if TYPE_CHECKING:
    from .matrix import TaskMatrix


@contextlib.contextmanager
def attached(
    model: Any,
    weight: Float[Tensor, "d_model d_model"],
    bias: Float[Tensor, " d_model"],
    *,
    layer: int,
) -> Iterator[None]:
    """Within, the last block's output is `state @ weight + bias` of the state after `layer`.

    The blocks between do not run.
    """
    blocks = model.cfg.n_layers

    def apply_map(activation: Tensor) -> Tensor:
        moved = activation.double() @ weight.to(activation.device) + bias.to(activation.device)
        return moved.to(activation.dtype)

    with (
        skip_blocks(model, range(layer + 1, blocks)),
        with_hooks(model, [replace_at(Site("resid_post", blocks - 1).hook(model), apply_map)]),
    ):
        yield


def place(matrix: "TaskMatrix", model: Any, layer: int | None) -> int:
    """The layer of the model to leave after: the asked one, or the one it was fitted at.

    Raises:
        TvlensError: no layer is known, or the matrix does not fit there.
    """
    layer = matrix.layer if layer is None else layer
    if layer is None:
        raise TvlensError("this matrix knows no layer of its own: say attach(model, layer=...)")
    layer = Site("resid_post", layer).on(model).layer
    if matrix.layer is not None and layer != matrix.layer:
        raise TvlensError(f"the matrix was fitted at layer {matrix.layer}, not at layer {layer}")
    width = model.cfg.d_model
    if matrix.weight.shape != (width, width):
        raise TvlensError(
            f"the matrix maps {matrix.d_base} to {matrix.d_tuned} dimensions; the states of this "
            f"model have {width}"
        )
    return layer
