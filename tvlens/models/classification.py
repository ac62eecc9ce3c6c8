"""Heads and logits of classifiers."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .families import family
from .forward import Batch, run
from .inputs import Inputs, batches

Head = Callable[[Float[Tensor, "row d"]], Float[Tensor, "row class"]]


def classifier_head(model: Any) -> Head:
    """Return the head of a classifier: from readout states after the last block to logits.

    It consists of final norm, pooler and classifier. For a model that pools by the mean, the
    states are means. They are moved to the classifier's device, where the logits stay. Gradients
    are propagated.

    Raises:
        TvlensError: the model has no classifier.
    """
    _check_classifier(model)
    source = model.original_model
    trunk = source.base_model

    def logits(states: Float[Tensor, "row d"]) -> Float[Tensor, "row class"]:
        # Hugging Face's modules read the first of several positions: give them one.
        states = states[:, None].to(next(source.classifier.parameters()).device)
        if hasattr(trunk, "layernorm"):  # of ViT; BERT's norms are in its blocks
            states = trunk.layernorm(states)
        if getattr(trunk, "pooler", None) is not None and not hasattr(trunk, "layernorm"):
            states = trunk.pooler(states)
        class_logits: Tensor = source.classifier(states).flatten(0, -2)
        return class_logits

    return logits


def classify(
    model: Any, inputs: Inputs, *, batch_size: int = 32, max_tokens: int = 64
) -> Float[Tensor, "row class"]:
    """Compute the logits of texts or images, on the CPU.

    Raises:
        TvlensError: the model has no classifier, or reads other inputs.
    """
    _check_classifier(model)
    parts = batches(model, inputs, batch_size=batch_size, max_tokens=max_tokens)
    return torch.cat([run(model, Batch.of(model, part)).cpu() for part in parts])


def _check_classifier(model: Any) -> None:
    if not family(model).is_classifier:
        raise TvlensError(
            "this model has no classifier: give one that was finetuned, or load a folder of one"
        )
