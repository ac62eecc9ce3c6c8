"""`QueryDelimiter`: read and replace states of a language model at the query's delimiter."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.forward import Batch, logits_at
from ...models.hooks import Hook, read_at, write_at
from ...patching.grid import SweptSites
from ...patching.metrics import probability
from ...patching.setup import prepare_patching
from ...patching.sweep import run_sweep
from ...progress import progress_bar
from ...sites import Site
from ...tasks import Prompt


@dataclass(frozen=True)
class QueryDelimiter:
    """The last position of prompts, where task vectors are read and injected.

    Attributes:
        model: a causal model.
        site: the component that is read and replaced.
        batch_size: prompts per forward.
        progress: whether to show a progress bar; by default on a terminal.
    """

    model: Any
    site: str
    batch_size: int
    progress: bool | None

    def read_states(
        self, prompts: Sequence[Prompt], answers: Int[Tensor, "prompt answer"]
    ) -> tuple[Float[Tensor, "layer prompt d_model"], Float[Tensor, "prompt answer"]]:
        """Read states at all layers and probabilities of given next tokens in one forward."""
        names = [Site(self.site, l).hook(self.model) for l in range(self.model.cfg.n_layers)]
        states, probabilities = [], []
        for batch in self._batches(len(prompts), "reading"):
            activations: dict[str, Tensor] = {}

            def make_hooks(positions: Tensor, activations: dict = activations) -> list[Hook]:
                def select(activation: Tensor) -> Tensor:
                    rows = torch.arange(len(positions), device=activation.device)
                    return activation[rows, positions.to(activation.device)].float().cpu()

                return [read_at(name, activations, name, select) for name in names]

            probabilities.append(
                self._answer_probabilities(prompts[batch], answers[batch], make_hooks)
            )
            states.append(torch.stack([activations[name] for name in names]))
        return torch.cat(states, 1), torch.cat(probabilities)

    def replace_states(
        self,
        prompts: Sequence[Prompt],
        answers: Int[Tensor, "prompt answer"],
        layer: int,
        vectors: Float[Tensor, "prompt d_model"] | None,
    ) -> Float[Tensor, "prompt answer"]:
        """Compute the probabilities of given next tokens after replacing the state of every prompt.

        Args:
            vectors: one per prompt; None leaves the model unchanged.
        """
        name = Site(self.site, layer).hook(self.model)

        def make_hooks(positions: Tensor, values: Tensor | None) -> list[Hook]:
            if values is None:
                return []
            return [write_at(name, ((torch.arange(len(positions)), positions), values))]

        probabilities = []
        for batch in self._batches(len(prompts), "replacing"):
            values = None if vectors is None else vectors[batch]
            hooks = functools.partial(make_hooks, values=values)
            probabilities.append(self._answer_probabilities(prompts[batch], answers[batch], hooks))
        return torch.cat(probabilities)

    def sweep_layers(
        self,
        prompts: Sequence[Prompt],
        answers: Int[Tensor, " prompt"],
        vectors: Float[Tensor, "layer prompt d_model"],
    ) -> Float[Tensor, "layer prompt"]:
        """Compute the probability of a next token after replacing the state at each layer.

        Cost: one forward of the prompts, and for every layer a forward of one token from there up.
        """
        probabilities = []
        for batch in self._batches(len(prompts), "sweeping layers"):
            metric = probability(answers[batch])
            setup = prepare_patching(
                self.model,
                "zero",
                [prompt.tokens for prompt in prompts[batch]],
                SweptSites(self.site, heads=None, positions=-1),
                metric=lambda logits, metric=metric: metric(logits.double()),
                seed=0,
            )
            patches = setup.grid.patches
            values = [vectors[p.layer, batch].to(setup.base_part(p)) for p in patches]
            probabilities.append(run_sweep(self.model, setup, patches, values).values[0])
        return torch.cat(probabilities, 1).cpu()

    def _batches(self, count: int, description: str) -> Iterator[slice]:
        starts = range(0, count, self.batch_size)
        for start in progress_bar(starts, description, progress=self.progress, leave=False):
            yield slice(start, start + self.batch_size)

    def _answer_probabilities(
        self, prompts: Sequence[Prompt], answers: Tensor, hooks: Callable[[Tensor], list[Hook]]
    ) -> Float[Tensor, "prompt answer"]:
        batch = Batch.of(self.model, [prompt.tokens for prompt in prompts])
        positions = batch.positions(-1)
        logits = logits_at(self.model, batch, positions, hooks=hooks(positions[:, 0]))[:, 0]
        return logits.double().softmax(-1).cpu().gather(-1, answers)
