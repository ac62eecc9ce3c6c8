"""What a model predicts on a family's sequences, and what its predictions cost."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...models.forward import Batch, Hook, hooked, run
from ...models.loading import model_name
from ...sites import Site
from ...training.objective import interleaved
from ..divergence import gaussian_kl, kl
from ..prediction import Moments, Predictive
from ..regression import LinearRegression
from ..sequences import Data, Pairs, Sequences

# Distributions of the next token, or means of the next target.
Predicted = Float[Tensor, "n length vocab"] | Float[Tensor, "n next"]

# What stands in place of a block's output.
Edit = Callable[[Float[Tensor, "n pos d"]], Float[Tensor, "n pos d"]]


def check_model(model: Any, family: Any) -> None:
    """Raise TvlensError unless the model reads and predicts what the family's sequences hold."""
    inputs, outputs = model.cfg.d_vocab, getattr(model.cfg, "d_vocab_out", -1)
    if isinstance(family, LinearRegression):
        if (inputs, outputs) != (family.dim + 1, 1):
            raise TvlensError(
                f"{model_name(model)} reads {inputs} and predicts {outputs} numbers; {family} "
                f"needs vectors of width {family.dim + 1} and one number"
            )
    elif inputs != family.vocabulary:
        raise TvlensError(
            f"{model_name(model)} has a vocabulary of {inputs} tokens and {family} one of "
            f"{family.vocabulary}"
        )


def longest(model: Any, family: Any) -> int:
    """How many observations fill the model's context: tokens, or pairs with the last y unread."""
    context = model.cfg.n_ctx
    return (context + 1) // 2 if isinstance(family, LinearRegression) else context


def inputs_of(data: Data) -> Int[Tensor, "n length"] | Float[Tensor, "n pos d_in"]:
    """What the model reads: tokens, or vectors x1, y1, x2, ... up to the last x."""
    if isinstance(data, Pairs):
        return interleaved(data.inputs.float(), data.targets.float())[:, :-1]
    return data.tokens if isinstance(data, Sequences) else data


def fitting_inputs(model: Any, data: Data) -> Int[Tensor, "n length"] | Float[Tensor, "n pos d_in"]:
    """What the model reads, or TvlensError where that is beyond its context."""
    rows = inputs_of(data)
    if rows.shape[1] > model.cfg.n_ctx:
        raise TvlensError(
            f"these sequences fill {rows.shape[1]} positions; {model_name(model)} has a context "
            f"of {model.cfg.n_ctx}"
        )
    return rows


def predicted(
    model: Any,
    family: Any,
    data: Data,
    *,
    hooks: Sequence[Hook] = (),
    batch_size: int = 256,
) -> Predicted:
    """The model's predictives in float64, laid out like those of the references.

    Args:
        hooks: as for `run_with_hooks`; those that hold something per row need one batch for all.

    Raises:
        TvlensError: another vocabulary than the family's, sequences beyond the context, or output
            that is not finite.
    """
    check_model(model, family)
    rows = fitting_inputs(model, data)
    parts = [
        run(model, Batch.of(model, part), hooks=hooks).cpu() for part in rows.split(batch_size)
    ]
    return as_predicted(family, torch.cat(parts))


def after(model: Any, batch: Batch, layer: int) -> Callable[[Edit], Float[Tensor, "n pos d_out"]]:
    """What the model says when a block's output is edited, as a function of the edit.

    Gradients follow the edit alone. Of the last block only the unembedding runs again, where that
    gives what the whole model gives.
    """
    name = Site("resid_post", layer).on(model).hook(model)
    caught: list[Tensor] = []
    rows = batch.inputs.to(next(model.parameters()).device)

    def whole(edit: Edit) -> Tensor:
        with hooked(model, [(name, lambda h, hook: edit(h.detach()))]):
            return model(rows)

    def unembedded(edit: Edit) -> Tensor:
        return model.unembed(model.ln_final(edit(caught[0])))

    if layer % model.cfg.n_layers < model.cfg.n_layers - 1 or not hasattr(model, "ln_final"):
        return whole
    with torch.no_grad():
        logits = run(model, batch, hooks=[(name, lambda h, hook: caught.append(h.clone()))])
        same = torch.allclose(unembedded(lambda h: h), logits, rtol=1e-4, atol=1e-5)
    return unembedded if same else whole


def as_predicted(family: Any, output: Float[Tensor, "n pos d_out"]) -> Predicted:
    """Logits as distributions; of a regression, the number after each x but the first."""
    if not bool(output.isfinite().all()):
        raise TvlensError("the model's output holds NaN or infinity")
    if isinstance(family, LinearRegression):
        return output[:, 2::2, 0].double()
    return output.double().softmax(-1)


def gap(family: Any, prediction: Predicted, reference: Predictive) -> Float[Tensor, "n position"]:
    """KL in nats from a model to a reference at every position."""
    if isinstance(reference, Moments):
        return gaussian_kl(prediction, reference.mean, noise=family.noise)
    return kl(prediction, reference)


def costs(family: Any, prediction: Predicted, data: Data) -> Float[Tensor, "n next"]:
    """What each next observation costs, in nats; of a regression up to the noise's own share.

    Differentiable, so that a search can climb it.
    """
    if isinstance(data, Pairs):
        targets = data.targets[:, 1:].to(prediction)
        return (prediction - targets).square() / (2 * family.noise**2)
    following = inputs_of(data)[:, 1:, None]
    return -prediction[:, :-1].gather(-1, following)[..., 0].log()
