"""`Examples`: base and finetuned states with their labels, for one part of the data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError

# From states after the finetuned model's last block to logits: final norm and classifier.
Head = Callable[[Float[Tensor, "n d_tuned"]], Float[Tensor, "n classes"]]


class LayerExamples(NamedTuple):
    """Base states at one layer, finetuned states and labels of the same inputs."""

    x: Float[Tensor, "n d_base"]
    y: Float[Tensor, "n d_tuned"]
    labels: Int[Tensor, " n"]


@dataclass(frozen=True)
class Examples:
    """One part of the data: training, validation or test.

    Attributes:
        base: readout states of the base model at every layer, as `collect_states` returns them.
        tuned: readout states of the finetuned model after its last block.
        labels: class numbers, as the head numbers them.
        layers: numbers of the base layers; by default 0, 1, ...

    Raises:
        TvlensError: different numbers of examples, fewer than 2, NaN states, or negative labels.
    """

    base: Float[Tensor, "layer n d_base"]
    tuned: Float[Tensor, "rows d_tuned"]
    labels: Int[Tensor, " items"]
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        counts = {"base": self.base.shape[1], "tuned": len(self.tuned), "labels": len(self.labels)}
        if len(set(counts.values())) > 1:
            listing = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise TvlensError(f"different numbers of examples: {listing}")
        if len(self) < 2:
            raise TvlensError(f"at least 2 examples are needed, not {len(self)}")
        for name in ("base", "tuned"):
            is_bad = ~getattr(self, name).isfinite()
            if is_bad.any():
                first = is_bad.nonzero()[0].tolist()
                raise TvlensError(f"the {name} states hold NaN or infinity, first at {first}")
        if (self.labels < 0).any():
            raise TvlensError(f"labels start at 0; there is {int(self.labels.min())}")
        layers = self.layers or tuple(range(len(self.base)))
        if len(layers) != len(self.base):
            raise TvlensError(f"{len(self.base)} layers of states, but {len(layers)} are named")
        object.__setattr__(self, "layers", tuple(layers))

    def __len__(self) -> int:
        return self.base.shape[1]

    def at_layer(self, layer: int) -> LayerExamples:
        """Select the base states of one layer.

        Raises:
            TvlensError: no states of that layer.
        """
        if layer not in self.layers:
            raise TvlensError(f"no states of layer {layer}; there are {list(self.layers)}")
        return LayerExamples(self.base[self.layers.index(layer)], self.tuned, self.labels)

    def subset(self, rows: Int[Tensor, " k"]) -> "Examples":
        """Select examples by row."""
        return Examples(self.base[:, rows], self.tuned[rows], self.labels[rows], self.layers)


def check_parts(train: Examples, validation: Examples, test: Examples) -> None:
    """Raise TvlensError unless the parts fit together and every label occurs in train."""
    for name, part in (("validation", validation), ("test", test)):
        if part.layers != train.layers:
            raise TvlensError(f"{name} has layers {part.layers}, train has {train.layers}")
        for side in ("base", "tuned"):
            a, b = (getattr(p, side).shape[-1] for p in (train, part))
            if a != b:
                raise TvlensError(f"{side} states have width {a} in train and {b} in {name}")
        missing = sorted(set(part.labels.tolist()) - set(train.labels.tolist()))
        if missing:
            raise TvlensError(f"labels of {name} that train lacks: {missing}")


def predict_classes(
    head: Head, states: Float[Tensor, "n d_tuned"], like: Float[Tensor, "..."]
) -> Int[Tensor, " n"]:
    """Predict the class with the largest logit.

    Args:
        head: from states to logits.
        states: states to classify.
        like: a tensor with the dtype and device that the head expects.

    Raises:
        TvlensError: the head does not return one finite logit per class.
    """
    with torch.no_grad():
        logits = head(states.to(like))
    if logits.ndim != 2 or len(logits) != len(states):
        raise TvlensError(
            f"the head made {list(logits.shape)} of {len(states)} states; it must give [n, classes]"
        )
    if not logits.isfinite().all():
        raise TvlensError("the head gave logits that are NaN or infinite")
    return logits.argmax(-1).cpu()
