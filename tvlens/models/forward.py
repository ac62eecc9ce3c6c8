"""One way to run a model: ragged prompts in, hooks on, logits only where they are read.

Prompts are padded on the RIGHT. A causal model never looks ahead, so the padding cannot touch a
real token and needs no mask on any architecture; only encoders, which look both ways, get one.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..integers import Integers, as_integers
from . import processor
from .families import family
from .locks import exclusive

Hook = tuple[str, Callable]
PixelValues = Float[Tensor, "row channel height width"]
Vectors = Float[Tensor, "row pos input"]
# Token ids, or `Prompt`s, which may show images.
TokenRows = Sequence[Any] | Int[Tensor, "row pos"]


@dataclass(frozen=True)
class Batch:
    """Prompts of unequal length as one tensor, or images or vectors, which are all of one size.

    Attributes:
        inputs: token ids, right-padded, pixel values, or a vector per position.
        lengths: how many positions of each row are real.
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
        """Pad token lists or prompts for `model`, or take images and vectors as they are.

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
        # 0 is an ordinary token everywhere: whatever stands behind a prompt is never looked at.
        inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if not process_images or not processor.has_images(prompts):
            return cls(inputs, lengths)
        return cls(inputs, lengths, processor.process_images(model, prompts, width=inputs.shape[1]))

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: Any) -> "Batch":
        """The same batch with its inputs and images on a device."""
        outputs = {key: value.to(device) for key, value in self.processor_outputs.items()}
        return Batch(self.inputs.to(device), self.lengths, outputs)

    def repeat(self, count: int) -> "Batch":
        """All rows, `count` times one behind the other."""

        def repeated(tensor: Tensor) -> Tensor:
            return tensor.repeat(count, *[1] * (tensor.ndim - 1))

        outputs = {key: repeated(value) for key, value in self.processor_outputs.items()}
        return Batch(repeated(self.inputs), self.lengths.repeat(count), outputs)

    def options(self, model: Any) -> dict[str, Tensor]:
        """Everything that the model's forward takes beside the inputs."""
        device = next(model.parameters()).device
        return self.mask(model) | {
            key: value.to(device) for key, value in self.processor_outputs.items()
        }

    def mask(self, model: Any) -> dict[str, Int[Tensor, "row pos"]]:
        """The option that keeps padding out of sight, for models that look both ways."""
        if not is_bidirectional(model) or self.inputs.is_floating_point():
            return {}
        mask = torch.arange(self.inputs.shape[1]) < self.lengths[:, None]
        return {"attention_mask": mask.long().to(next(model.parameters()).device)}

    def positions(self, positions: Integers) -> Int[Tensor, "row k"]:
        """Absolute positions in every row; negative ones count from each row's own end.

        Raises:
            TvlensError: a position outside one of the rows.
        """
        wanted = torch.tensor(as_integers(positions, name="positions"))
        absolute = torch.where(wanted < 0, self.lengths[:, None] + wanted, wanted)
        outside = (absolute < 0) | (absolute >= self.lengths[:, None])
        if outside.any():
            row, k = outside.nonzero()[0].tolist()
            raise TvlensError(
                f"position {int(wanted[k])} is outside prompt {row}, "
                f"which has {int(self.lengths[row])} positions"
            )
        return absolute


def _check_lengths(lengths: Int[Tensor, " row"], context: int | None, prompts: Any) -> None:
    if (lengths == 0).any():
        raise TvlensError(f"prompt {int((lengths == 0).nonzero()[0])} is empty")
    if context and int(lengths.max()) > context:
        row = int(lengths.argmax())
        spans = getattr(prompts[row], "image_spans", ())
        taken = sum(stop - start for start, stop in spans)
        images = f", {taken} of them for {len(spans)} images" if spans else ""
        raise TvlensError(
            f"prompt {row} has {int(lengths[row])} tokens{images}, but the model's context is "
            f"{context}: use fewer shots or shorter inputs"
        )


@contextlib.contextmanager
@exclusive
def hooked(model: Any, hooks: Sequence[Hook]) -> Iterator[None]:
    """Run with forward hooks; they are gone afterwards, even after an exception.

    Raises:
        TvlensError: a forward pass ran to its end, but one of the hooks never fired.
    """
    fired: set[int] = set()
    ran = 0

    def count(*_: Any) -> None:
        nonlocal ran
        ran += 1

    def watched(i: int, hook: Callable) -> Callable:
        def run(activation: Tensor, hook_point: Any) -> Tensor | None:
            fired.add(i)
            return hook(activation, hook_point)

        # TransformerLens passes the hook point by the keyword `hook`.
        return lambda activation, hook: run(activation, hook)

    handle = model.register_forward_hook(count)
    try:
        with model.hooks(fwd_hooks=[(name, watched(i, h)) for i, (name, h) in enumerate(hooks)]):
            yield
    finally:
        handle.remove()
    silent = [name for i, (name, _) in enumerate(hooks) if i not in fired]
    if ran and silent:
        raise TvlensError(f"hook {silent[0]!r} never fired: this model does not compute it")


def run(model: Any, batch: Batch, *, hooks: Sequence[Hook] = (), **options: Any) -> Any:
    """Run a batch under hooks, without gradients; `options` go to the model's own forward.

    Raises:
        TvlensError: a model that cannot be run as it is (see `check_runnable`).
    """
    check_runnable(model)
    device = next(model.parameters()).device
    options |= batch.options(model)
    with torch.no_grad(), hooked(model, hooks):
        return model(batch.inputs.to(device), **options)


def check_model(model: Any) -> None:
    """Raise TvlensError for what is no model with named hook points."""
    if not (hasattr(model, "hook_dict") and hasattr(model, "cfg")):
        raise TvlensError(
            f"a {type(model).__name__} has no named hook points: give what tvlens.load returns"
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
    config = getattr(getattr(model, "original_model", None), "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise TvlensError(
            f"{type(model.original_model).__name__} is an encoder-decoder: tvlens reads models of "
            "one stack of blocks, such as GPT-2, Llama, BERT or ViT"
        )


def logits_at(
    model: Any,
    batch: Batch,
    positions: Int[Tensor, "row k"],
    *,
    hooks: Sequence[Hook] = (),
    vocabulary: Sequence[int] | None = None,
) -> Float[Tensor, "row k vocab"]:
    """Logits at the given absolute positions; only these are unembedded.

    Args:
        vocabulary: the tokens whose logits are wanted, in this order; all by default.

    Cost: one forward, less the unembedding of all other positions (31% of a forward of GPT-2).

    Raises:
        TvlensError: the model is a classifier, which has no logits at positions.
    """
    if is_classifier(model):
        raise TvlensError("a classifier has one row of logits per input, none at positions")
    rows = torch.arange(len(batch))[:, None]

    def keep(activation: Tensor, hook: Any) -> Tensor:
        return activation[rows.to(activation.device), positions.to(activation.device)]

    with unembedding(model, vocabulary):
        return run(model, batch, hooks=[*hooks, (before_unembedding(model), keep)])


@contextlib.contextmanager
@exclusive
def unembedding(model: Any, vocabulary: Sequence[int] | None) -> Iterator[None]:
    """Within, logits hold these tokens only: the other columns of the unembedding do not run."""
    if vocabulary is None:
        yield
        return
    linear = getattr(model.unembed, "original_component", None) or model.unembed
    if isinstance(linear, torch.nn.Linear):
        chosen = torch.tensor(vocabulary, device=linear.weight.device)
        weight = linear.weight[chosen]
        bias = None if linear.bias is None else linear.bias[chosen]
        short = functools.partial(torch.nn.functional.linear, weight=weight, bias=bias)
    else:
        whole = linear.forward

        def short(residual: Tensor) -> Tensor:
            return whole(residual)[..., vocabulary]

    linear.__dict__["forward"] = short
    try:
        yield
    finally:
        del linear.__dict__["forward"]


@contextlib.contextmanager
@exclusive
def skipping(model: Any, blocks: Iterable[int]) -> Iterator[None]:
    """Within, these blocks do not run: each hands on what it gets, through its output's hook.

    TransformerLens' `start_at_layer` on a bridge would run the blocks below it all the same.
    """
    points = model.hook_dict  # made anew at every call
    skipped = {i: points[f"blocks.{i}.hook_resid_post"] for i in blocks}
    form = family(model).block_output

    def handing_on(i: int, point: Callable) -> Callable:
        return lambda hidden, *_, **__: form(i, point(hidden))

    for i, point in skipped.items():
        model.blocks[i].__dict__["forward"] = handing_on(i, point)
    try:
        yield
    finally:
        for i in skipped:
            del model.blocks[i].__dict__["forward"]


def before_unembedding(model: Any) -> str:
    """The last hook whose activation may lose positions: all that follows is positionwise."""
    if "unembed.hook_in" in model.hook_dict:
        return "unembed.hook_in"
    # HookedTransformer: the end of the last block; the final norm and the unembedding follow.
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"


def is_classifier(model: Any) -> bool:
    """Whether the model's logits are one row per input, from a pooled state."""
    return hasattr(getattr(model, "original_model", None), "classifier")


def is_bidirectional(model: Any) -> bool:
    """Whether every position sees every other one (text and vision encoders)."""
    if getattr(model.cfg, "attention_dir", "causal") == "bidirectional":
        return True
    # Gemma 3 as an encoder; "vision" is for the tokens of one image alone.
    config = getattr(getattr(model, "original_model", None), "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    if getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        return True
    if getattr(text, "is_causal", None) is False:
        return True
    # TransformerLens 3.9 calls its BERT bridge causal, but knows that it cannot generate.
    return not getattr(getattr(model, "adapter", None), "supports_generation", True)


def check_causal(model: Any) -> None:
    """Raise TvlensError where a model cannot answer prompts: an encoder, or a classifier."""
    if is_bidirectional(model) or is_classifier(model):
        name = getattr(model.cfg, "model_name", None) or type(model).__name__
        raise TvlensError(
            f"{name} is no causal language model, which task vectors of prompts need: "
            "give one such as smollm2-135m"
        )
