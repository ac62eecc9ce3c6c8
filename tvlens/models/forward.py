"""Forward passes on prompts of unequal length, with hooks, and logits at chosen positions.

Prompts are padded on the right. A causal model never attends to later positions, so padding needs
no mask on any architecture; only encoders, which attend both ways, get one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..integers import Integers, as_integers
from . import processor
from .families import family, input_device
from .hooks import Hook, restricted_vocabulary, unembed_only, with_hooks

PixelValues = Float[Tensor, "row channel height width"]
Vectors = Float[Tensor, "row pos input"]
# Token ids, or `Prompt`s, which may show images.
TokenRows = Sequence[Any] | Int[Tensor, "row pos"]


@dataclass(frozen=True)
class Batch:
    """Padded prompts of unequal length, or images or vectors of one size.

    Attributes:
        inputs: token ids, right-padded, pixel values, or a vector per position.
        lengths: number of positions of each row without padding.
        processor_outputs: outputs of the processor for the prompts' images, by the name of the
            model's input; the images of all rows are concatenated along the first axis.
    """

    inputs: Int[Tensor, "row pos"] | PixelValues | Vectors
    lengths: Int[Tensor, " row"]
    processor_outputs: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Any, prompts: TokenRows | PixelValues | Vectors, *, process_images: bool = True
    ) -> "Batch":
        """Pad token lists or prompts for `model`; images and vectors are used as they are.

        Args:
            process_images: run the processor on the prompts' images; otherwise the batch holds
                tokens and lengths only.

        Raises:
            TvlensError: no prompts, an empty one, or one beyond the context length.
        """
        if isinstance(prompts, Tensor) and prompts.is_floating_point():
            positions = prompts.shape[1] if prompts.ndim == 3 else model.cfg.n_ctx
            return cls(prompts, torch.full((len(prompts),), positions))
        rows = [torch.as_tensor(getattr(p, "tokens", p), dtype=torch.long) for p in prompts]
        if not rows:
            raise TvlensError("no prompts to run")
        lengths = torch.tensor([len(row) for row in rows])
        _check_lengths(lengths, model.cfg.n_ctx, prompts)
        # 0 is a valid token everywhere: no real position attends to what follows a prompt.
        inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if not process_images or not processor.has_images(prompts):
            return cls(inputs, lengths)
        return cls(inputs, lengths, processor.process_images(model, prompts, width=inputs.shape[1]))

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: Any) -> "Batch":
        """Move inputs and images to a device."""
        outputs = {key: value.to(device) for key, value in self.processor_outputs.items()}
        return Batch(self.inputs.to(device), self.lengths, outputs)

    def repeat(self, count: int) -> "Batch":
        """Repeat all rows `count` times."""

        def repeat_rows(tensor: Tensor) -> Tensor:
            return tensor.repeat(count, *[1] * (tensor.ndim - 1))

        outputs = {key: repeat_rows(value) for key, value in self.processor_outputs.items()}
        return Batch(repeat_rows(self.inputs), self.lengths.repeat(count), outputs)

    def options(self, model: Any) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward method."""
        device = input_device(model)
        outputs = {key: value.to(device) for key, value in self.processor_outputs.items()}
        return self.mask(model) | outputs

    def mask(self, model: Any) -> dict[str, Int[Tensor, "row pos"]]:
        """The attention mask of the padding, for bidirectional models."""
        if not family(model).is_bidirectional or self.inputs.is_floating_point():
            return {}
        mask = torch.arange(self.inputs.shape[1]) < self.lengths[:, None]
        return {"attention_mask": mask.long().to(input_device(model))}

    def positions(self, positions: Integers) -> Int[Tensor, "row k"]:
        """Convert positions to absolute ones in every row; negative ones count from its end.

        Raises:
            TvlensError: a position outside one of the rows.
        """
        numbers = torch.tensor(as_integers(positions, name="positions"))
        absolute = torch.where(numbers < 0, self.lengths[:, None] + numbers, numbers)
        outside = (absolute < 0) | (absolute >= self.lengths[:, None])
        if outside.any():
            row, k = outside.nonzero()[0].tolist()
            raise TvlensError(
                f"position {int(numbers[k])} is outside prompt {row}, "
                f"which has {int(self.lengths[row])} positions"
            )
        return absolute


def _check_lengths(lengths: Int[Tensor, " row"], context: int | None, prompts: Any) -> None:
    if (lengths == 0).any():
        raise TvlensError(f"prompt {int((lengths == 0).nonzero()[0])} is empty")
    if context and int(lengths.max()) > context:
        row = int(lengths.argmax())
        spans = getattr(prompts[row], "image_spans", ())
        image_tokens = sum(stop - start for start, stop in spans)
        images = f", {image_tokens} of them for {len(spans)} images" if spans else ""
        raise TvlensError(
            f"prompt {row} has {int(lengths[row])} tokens{images}, but the model's context is "
            f"{context}: use fewer shots or shorter inputs"
        )


def run(model: Any, batch: Batch, *, hooks: Sequence[Hook] = (), **options: Any) -> Any:
    """Run a batch under hooks, without gradients; `options` go to the model's own forward.

    Raises:
        TvlensError: a model that cannot be run as it is (see `check_runnable`).
    """
    check_runnable(model)
    options |= batch.options(model)
    with torch.no_grad(), with_hooks(model, hooks):
        return model(batch.inputs.to(input_device(model)), **options)


def check_model(model: Any) -> None:
    """Raise TvlensError unless this is a model with named hook points."""
    if not (hasattr(model, "hook_dict") and hasattr(model, "cfg")):
        raise TvlensError(
            f"a {type(model).__name__} has no named hook points: load it with tvlens.load"
        )


def check_runnable(model: Any) -> None:
    """Raise TvlensError for a model in training mode, and for an encoder-decoder.

    Dropout would make every state another one at every call; a part of the model in training
    mode is enough.
    """
    check_model(model)
    if any(module.training for module in model.modules()):
        part = "" if model.training else "a part of "
        raise TvlensError(f"{part}the model is in training mode: call model.eval() first")
    if family(model).is_encoder_decoder:
        raise TvlensError(
            f"{type(model.original_model).__name__} is an encoder-decoder: tvlens supports models "
            "of one stack of blocks, such as GPT-2, Llama, BERT or ViT"
        )


def logits_at(
    model: Any,
    batch: Batch,
    positions: Int[Tensor, "row k"],
    *,
    hooks: Sequence[Hook] = (),
    vocabulary: Sequence[int] | None = None,
) -> Float[Tensor, "row k vocab"]:
    """Compute logits at absolute positions; only these are unembedded.

    Args:
        vocabulary: the tokens whose logits are computed, in this order; all by default.

    Cost: one forward, less the unembedding of all other positions (31% of a forward of GPT-2).

    Raises:
        TvlensError: the model is a classifier, which has no logits at positions.
    """
    if family(model).is_classifier:
        raise TvlensError("a classifier has one row of logits per input, not one per position")
    with restricted_vocabulary(model, vocabulary):
        logits: Tensor = run(model, batch, hooks=[*hooks, unembed_only(model, positions)])
        return logits


def check_causal(model: Any) -> None:
    """Raise TvlensError for a model that cannot answer prompts: an encoder or a classifier."""
    if family(model).is_bidirectional or family(model).is_classifier:
        name = getattr(model.cfg, "model_name", None) or type(model).__name__
        raise TvlensError(
            f"{name} is no causal language model: task vectors of prompts need one, such as "
            "smollm2-135m"
        )
