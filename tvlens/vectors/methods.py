"""Ways from a task's examples to its vector, as plain functions of a `Draw`.

Each gives a vector per layer and what else is worth keeping about it, as JSON; `mode` says how the
method writes its vector (see `TaskVector.applied`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..activations import collect
from ..errors import TvlensError
from ..models import processor_or_tokenizer
from ..tasks import Modality, Pair, Prompt, Task, Template, build, contexts, plain


@dataclass(frozen=True)
class Draw:
    """What a method extracts from: a model, a task, and the contexts drawn for it.

    Attributes:
        drawn: demonstrations and query of every context.
        modality, query: how inputs are shown in demonstrations and in queries: "text" or "image".
        site: the component to read.
        seed: of further draws.
    """

    model: Any
    task: Task
    template: Template
    drawn: list[tuple[list[Pair], Pair]]
    site: str
    seed: int
    batch_size: int
    progress: bool
    modality: Modality = "text"
    query: Modality = "text"

    @classmethod
    def of(
        cls, model: Any, task: Task, template: Template, *, shots: int, count: int, **options: Any
    ) -> "Draw":
        """Draw `count` contexts of `shots` demonstrations and a query each."""
        drawn = contexts(task, shots=shots, count=count, seed=options["seed"])
        return cls(model, task, template, drawn, **options)

    def prompts(self) -> list[Prompt]:
        """The few-shot prompts, with the queries' answers."""
        return [self.prompt(shown, query) for shown, query in self.drawn]

    def prompt(self, shown: Sequence[Pair], query: Pair) -> Prompt:
        """One prompt, with inputs as texts or images."""
        demonstrations = [self.task.shown(pair, self.modality) for pair in shown]
        asked = self.task.shown(query, self.query)
        return build(processor_or_tokenizer(self.model), self.template, demonstrations, *asked)

    def states(
        self, prompts: Sequence[Prompt] | Sequence[Sequence[int]]
    ) -> Float[Tensor, "layer prompt d_model"]:
        """States at the last token of every prompt."""
        found = collect(
            self.model,
            prompts,
            self.site,
            positions=-1,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        return found.stack(self.site)[:, :, 0].float()


Extracted = tuple[Float[Tensor, "layer d_model"], dict]
Method = Callable[[Draw], Extracted]


def state(draw: Draw) -> Extracted:
    """Mean state after every block at the query's delimiter, over contexts.

    Source: Hendel et al. 2023, "In-Context Learning Creates Task Vectors", section 3.
    """
    return draw.states(draw.prompts()).mean(1), {"mode": "replace"}


def difference(draw: Draw) -> Extracted:
    """Mean state of the few-shot prompts less that of the same queries without demonstrations.

    It is added, so that a bare query's state moves to where demonstrations bring it on average.
    """
    with_shots = draw.states(draw.prompts())
    without = draw.states([draw.prompt([], query) for _, query in draw.drawn])
    return (with_shots - without).mean(1), {"mode": "add"}


def in_context(draw: Draw) -> Extracted:
    """First principal direction of the change from input to output, over all layers at once.

    Inputs and outputs are read as texts of their own, at their last tokens. The direction is
    signed towards the outputs, and in every layer as long as the states there; it turns a state
    without changing its length. Liu et al. add it at every token and layer; here it is written
    where all vectors are, at the delimiter of one layer.

    Source: Liu et al. 2023, "In-context Vectors", equation 3.
    """
    if "image" in (draw.modality, draw.query):
        raise TvlensError("'in-context' reads inputs as texts of their own, it takes no images")
    words = [[draw.template.gap + word for word in side] for side in zip(*draw.task, strict=True)]
    tokenizer = draw.model.tokenizer
    inputs, outputs = ([plain(tokenizer, word) for word in side] for side in words)
    before, after = draw.states(inputs), draw.states(outputs)
    change = rearrange(after - before, "layer pair d_model -> pair (layer d_model)")
    direction = torch.linalg.svd(change, full_matrices=False).Vh[0]
    direction = direction * torch.sign(change.mean(0) @ direction)
    unit = torch.nn.functional.normalize(
        rearrange(direction, "(layer d_model) -> layer d_model", layer=len(before)), dim=-1
    )
    about = {"mode": "turn", "prompts": [word for side in words for word in side]}
    return unit * before.norm(dim=-1).mean(1, keepdim=True), about


def instruction(draw: Draw) -> Extracted:
    """State at the last token of the task's instruction, read alone.

    Source: Luo et al. 2024, "Task Vectors are Cross-Modal".
    """
    if not draw.task.instruction:
        raise TvlensError(
            f"{draw.task.name} has no instruction: give the task one, such as "
            "Task(..., instruction='The plural of the word:')"
        )
    tokens = plain(draw.model.tokenizer, draw.task.instruction)
    return draw.states([tokens])[:, 0], {"mode": "replace", "prompts": [draw.task.instruction]}
