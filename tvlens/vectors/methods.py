"""Extraction methods: functions from an `ExtractionContext` to a vector per layer.

Each returns the vector and metadata as JSON, whose entry `mode` is how the vector is applied by
default (see `TaskVector.applied`).
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
class ExtractionContext:
    """Inputs of an extraction method: a model, a task, and its few-shot contexts.

    Attributes:
        contexts: demonstrations and query of every context.
        modality, query: modality of demonstrations and of queries: "text" or "image".
        site: the component to read.
        seed: seed of further draws.
    """

    model: Any
    task: Task
    template: Template
    contexts: list[tuple[list[Pair], Pair]]
    site: str
    seed: int
    batch_size: int
    progress: bool | None
    modality: Modality = "text"
    query: Modality = "text"

    @classmethod
    def draw(
        cls, model: Any, task: Task, template: Template, *, shots: int, count: int, **options: Any
    ) -> "ExtractionContext":
        """Draw `count` contexts of `shots` demonstrations and a query each."""
        drawn = contexts(task, shots=shots, count=count, seed=options["seed"])
        return cls(model, task, template, drawn, **options)

    def prompts(self) -> list[Prompt]:
        """Build the few-shot prompts, with the queries' answers."""
        return [self.prompt(demonstrations, query) for demonstrations, query in self.contexts]

    def prompt(self, demonstrations: Sequence[Pair], query: Pair) -> Prompt:
        """Build one prompt, with inputs as texts or images."""
        inputs = [self.task.shown(pair, self.modality) for pair in demonstrations]
        query_input = self.task.shown(query, self.query)
        return build(processor_or_tokenizer(self.model), self.template, inputs, *query_input)

    def states(
        self, prompts: Sequence[Prompt] | Sequence[Sequence[int]]
    ) -> Float[Tensor, "layer prompt d_model"]:
        """Collect the states at the last token of every prompt."""
        activations = collect(
            self.model,
            prompts,
            self.site,
            positions=-1,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        return activations.stack(self.site)[:, :, 0].float()


Extraction = tuple[Float[Tensor, "layer d_model"], dict]
Method = Callable[[ExtractionContext], Extraction]


def state(context: ExtractionContext) -> Extraction:
    """Mean state after every block at the query's delimiter, over contexts.

    Source: Hendel et al. 2023, "In-Context Learning Creates Task Vectors", section 3.
    """
    return context.states(context.prompts()).mean(1), {"mode": "replace"}


def difference(context: ExtractionContext) -> Extraction:
    """Mean state of the few-shot prompts minus that of the same queries without demonstrations.

    It is added, so that a bare query's state moves to where demonstrations bring it on average.
    """
    with_shots = context.states(context.prompts())
    without = context.states([context.prompt([], query) for _, query in context.contexts])
    return (with_shots - without).mean(1), {"mode": "add"}


def in_context(context: ExtractionContext) -> Extraction:
    """First principal direction of the change from input to output, over all layers at once.

    Inputs and outputs are read as texts of their own, at their last tokens. The direction is
    signed towards the outputs and scaled to the mean norm of the states in every layer; it is added
    to a state without changing the state's norm. Liu et al. add it at every token and layer; here
    it is applied where all vectors are, at the delimiter of one layer.

    Source: Liu et al. 2023, "In-context Vectors", equation 3.
    """
    if "image" in (context.modality, context.query):
        raise TvlensError("'in-context' reads inputs as separate texts and supports no images")
    words = [
        [context.template.gap + word for word in side] for side in zip(*context.task, strict=True)
    ]
    tokenizer = context.model.tokenizer
    inputs, outputs = ([plain(tokenizer, word) for word in side] for side in words)
    before, after = context.states(inputs), context.states(outputs)
    change = rearrange(after - before, "layer pair d_model -> pair (layer d_model)")
    direction = torch.linalg.svd(change, full_matrices=False).Vh[0]
    direction = direction * torch.sign(change.mean(0) @ direction)
    unit = torch.nn.functional.normalize(
        rearrange(direction, "(layer d_model) -> layer d_model", layer=len(before)), dim=-1
    )
    metadata = {"mode": "add_preserving_norm", "prompts": [word for side in words for word in side]}
    return unit * before.norm(dim=-1).mean(1, keepdim=True), metadata


def instruction(context: ExtractionContext) -> Extraction:
    """State at the last token of the task's instruction, read alone.

    Source: Luo et al. 2024, "Task Vectors are Cross-Modal".
    """
    if not context.task.instruction:
        raise TvlensError(
            f"{context.task.name} has no instruction: give the task one, such as "
            "Task(..., instruction='The plural of the word:')"
        )
    tokens = plain(context.model.tokenizer, context.task.instruction)
    return context.states([tokens])[:, 0], {
        "mode": "replace",
        "prompts": [context.task.instruction],
    }
