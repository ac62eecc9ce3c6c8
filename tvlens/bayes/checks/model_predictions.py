"""Predictions of a model on a family's sequences, and their cost."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...models.families import input_device
from ...models.forward import Batch, run
from ...models.hooks import Hook, read_at, replace_at, skip_blocks, with_hooks
from ...models.loading import model_name
from ...sites import Site
from ...training.data import interleave_pairs
from ..distributions import gaussian_kl, kl
from ..dyck import Dyck
from ..pool import Split
from ..prediction import Moments, Predictive
from ..regression import LinearRegression
from ..sequences import Data, Pairs, Sequences

# Distributions of the next token, or means of the next target.
ModelPredictive = Float[Tensor, "n length vocab"] | Float[Tensor, "n next"]

# From a block's output to its replacement.
Edit = Callable[[Float[Tensor, "n pos d"]], Float[Tensor, "n pos d"]]


def require_compatible(model: Any, family: Any) -> None:
    """Raise TvlensError unless the model's vocabulary matches the family's."""
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


def default_splits(family: Any) -> list[Split]:
    """Return "major", "minor" if the family has minors, and "ood"."""
    return ["major", "minor", "ood"] if family.minors else ["major", "ood"]


def max_length(model: Any, family: Any) -> int:
    """Return the number of tokens, or of pairs without the last target, that fill the context."""
    context: int = model.cfg.n_ctx
    return (context + 1) // 2 if isinstance(family, LinearRegression) else context


def model_inputs(data: Data) -> Int[Tensor, "n length"] | Float[Tensor, "n pos d_in"]:
    """Convert data to model inputs: tokens, or vectors x1, y1, x2, ... up to the last x."""
    if isinstance(data, Pairs):
        return interleave_pairs(data.inputs.float(), data.targets.float())[:, :-1]
    return data.tokens if isinstance(data, Sequences) else data


def inputs_within_context(
    model: Any, data: Data
) -> Int[Tensor, "n length"] | Float[Tensor, "n pos d_in"]:
    """Convert data to model inputs, or raise TvlensError where they exceed the context."""
    inputs = model_inputs(data)
    if inputs.shape[1] > model.cfg.n_ctx:
        raise TvlensError(
            f"these sequences fill {inputs.shape[1]} positions; {model_name(model)} has a context "
            f"of {model.cfg.n_ctx}"
        )
    return inputs


def predict(
    model: Any,
    family: Any,
    data: Data,
    *,
    hooks: Sequence[Hook] = (),
    batch_size: int = 256,
) -> ModelPredictive:
    """Compute the model's predictives in float64, in the layout of the references.

    Args:
        hooks: as for `run_with_hooks`; hooks with one value per row require a single batch.

    Raises:
        TvlensError: the vocabularies of model and family differ, sequences exceed the context, or
            an output is not finite.
    """
    require_compatible(model, family)
    batches = inputs_within_context(model, data).split(batch_size)
    outputs = [run(model, Batch.of(model, batch), hooks=hooks).cpu() for batch in batches]
    return to_predictive(family, torch.cat(outputs))


def predict_without_context(model: Any, family: Any, data: Data) -> ModelPredictive:
    """Compute the model's predictives from the current token, or input of a regression, alone."""
    if isinstance(data, Pairs):
        vectors = model_inputs(data)[:, 2::2]
        (n, length, _), rows = vectors.shape, vectors.flatten(0, 1)[:, None]
        outputs = [run(model, Batch.of(model, part)).cpu() for part in rows.split(4096)]
        return torch.cat(outputs)[:, 0, 0].double().view(n, length)
    tokens = torch.arange(family.vocabulary)[:, None]
    return predict(model, family, tokens)[:, 0][model_inputs(data)]


def edited_forward(
    model: Any, batch: Batch, layer: int
) -> Callable[[Edit], Float[Tensor, "n pos d_out"]]:
    """Return the model's output as a function of an edit of a block's output.

    Gradients flow through the edit only. Blocks up to the edited one are not computed again, where
    the others alone reproduce the output of the full model.
    """
    address = Site("resid_post", layer).on(model)
    name, blocks = address.hook(model), range(layer % model.cfg.n_layers + 1)
    states: dict[str, Tensor] = {}
    inputs = batch.inputs.to(input_device(model))

    def full_forward(edit: Edit) -> Tensor:
        with with_hooks(model, [replace_at(name, lambda h: edit(h.detach()))]):
            output: Tensor = model(inputs)
            return output

    def later_blocks(edit: Edit) -> Tensor:
        enter = replace_at(name, lambda _: edit(states[name]))
        with skip_blocks(model, blocks), with_hooks(model, [enter]):
            output: Tensor = model(inputs)
            return output

    def unembed(edit: Edit) -> Tensor:
        output: Tensor = model.unembed(model.ln_final(edit(states[name])))
        return output

    with torch.no_grad():
        logits = run(model, batch, hooks=[read_at(name, states, name)])
        is_last = len(blocks) == model.cfg.n_layers
        for forward in [unembed] if is_last and hasattr(model, "ln_final") else [later_blocks]:
            if torch.allclose(forward(lambda h: h), logits, rtol=1e-4, atol=1e-5):
                return forward
    return full_forward


def predict_from_last_state(
    model: Any, family: Any, data: Data, layer: int
) -> Callable[[Float[Tensor, "n d"]], ModelPredictive]:
    """Return the last predictive as a function of a block's output at the last position."""
    forward = edited_forward(model, Batch.of(model, inputs_within_context(model, data)), layer)

    def predict_last(states: Float[Tensor, "n d"]) -> ModelPredictive:
        def edit(h: Tensor) -> Tensor:
            edited = h.clone()
            edited[:, -1] = states.to(h)
            return edited

        with torch.no_grad():
            return to_predictive(family, forward(edit)).cpu()[:, -1:]

    return predict_last


def to_predictive(family: Any, output: Float[Tensor, "n pos d_out"]) -> ModelPredictive:
    """Convert logits to distributions; of a regression, select the outputs after each later x."""
    if not bool(output.isfinite().all()):
        raise TvlensError("the model's output holds NaN or infinity")
    if isinstance(family, LinearRegression):
        return output[:, 2::2, 0].double()
    return output.double().softmax(-1)


def predictive_kl(
    family: Any, prediction: ModelPredictive, reference: Predictive
) -> Float[Tensor, "n position"]:
    """Compute the KL in nats from a model to a reference at every position.

    Of `Dyck`, whose references rule out brackets that every model allows, from the reference to the
    model.
    """
    if isinstance(family, Dyck):
        return kl(reference, prediction)
    if isinstance(reference, Moments):
        return gaussian_kl(prediction, reference.mean, noise=family.noise)
    return kl(prediction, reference)


def next_observation_cost(
    family: Any, prediction: ModelPredictive, data: Data
) -> Float[Tensor, "n next"]:
    """Compute the negative log-likelihood of each next observation, in nats.

    For a regression the constant that depends on the noise is omitted. Differentiable.
    """
    if isinstance(data, Pairs):
        targets = data.targets[:, 1:].to(prediction)
        costs: Tensor = (prediction - targets).square() / (2 * family.noise**2)
        return costs
    next_tokens = model_inputs(data)[:, 1:, None]
    return -prediction[:, :-1].gather(-1, next_tokens)[..., 0].log()
