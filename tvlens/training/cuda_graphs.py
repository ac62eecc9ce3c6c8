"""Launch a model's forward and backward passes as CUDA graphs.

Launching the hundreds of kernels of a small transformer takes longer than running them. A CUDA
graph launches all of them in one call (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs).
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .data import Pairs, Tokens, model_inputs


class _Forward(nn.Module):
    """Wrap a model, so that capturing does not replace the model's own forward method."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.model(inputs)
        return output


def with_cuda_graphs(model: nn.Module, batch: Tokens | Pairs) -> Callable[[Tensor], Tensor]:
    """Capture the forward and backward pass of a model as CUDA graphs.

    If capturing fails, it warns and returns the model itself.

    Args:
        model: a module on a GPU.
        batch: an example batch; all later batches have its shape.
    """
    if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
        # Gradients are accumulated on another stream than that of the capture, which is harmless.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    example = model_inputs(batch).to(next(model.parameters()).device)
    try:
        graphed: Callable[[Tensor], Tensor] = torch.cuda.make_graphed_callables(
            _Forward(model), (example,)
        )
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"training runs without CUDA graphs: {reason}", stacklevel=3)
        return model
    return graphed
