"""`Delimiter`: reading a language model at the query's delimiter, and writing there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ...models.forward import Batch, Hook, logits_at
from ...patching.comparison import compare
from ...patching.engines import run_sweep
from ...patching.metrics import probability
from ...sites import Site
from ...tasks import Prompt


@dataclass(frozen=True)
class Delimiter:
    """The last position of prompts in a model: there a task vector lives.

    Attributes:
        model: any causal model.
        site: the component that is read and written.
        batch_size: prompts per forward.
        progress: whether to show a bar.
    """

    model: Any
    site: str
    batch_size: int
    progress: bool

    def read(
        self, prompts: Sequence[Prompt], answers: Int[Tensor, "prompt answer"]
    ) -> tuple[Float[Tensor, "layer prompt d_model"], Float[Tensor, "prompt answer"]]:
        """States at all layers, and the probabilities of the given next tokens: one pass."""
        hooks = [Site(self.site, l).hook(self.model) for l in range(self.model.cfg.n_layers)]
        states, probabilities = [], []
        for part in self._parts(len(prompts), "reading"):
            caught: dict[str, Tensor] = {}

            def catching(name: str, at: Tensor, caught: dict = caught) -> Callable:
                def hook(activation: Tensor, hook_point: Any) -> None:
                    rows = torch.arange(len(at), device=activation.device)
                    caught[name] = activation[rows, at.to(activation.device)].float().cpu()

                return hook

            probabilities.append(
                self._answers(
                    prompts[part],
                    answers[part],
                    lambda at, one=catching: [(name, one(name, at)) for name in hooks],
                )
            )
            states.append(torch.stack([caught[name] for name in hooks]))
        return torch.cat(states, 1), torch.cat(probabilities)

    def written(
        self,
        prompts: Sequence[Prompt],
        answers: Int[Tensor, "prompt answer"],
        layer: int,
        vectors: Float[Tensor, "prompt d_model"] | None,
    ) -> Float[Tensor, "prompt answer"]:
        """Probabilities of the given next tokens with a vector in place of every prompt's state.

        Args:
            vectors: one per prompt; None leaves the model alone.
        """
        name = Site(self.site, layer).hook(self.model)

        def writing(at: Tensor, values: Tensor) -> list[Hook]:
            def hook(activation: Tensor, hook_point: Any) -> Tensor:
                edited = activation.clone()
                rows = torch.arange(len(at), device=edited.device)
                edited[rows, at.to(edited.device)] = values.to(edited)
                return edited

            return [(name, hook)]

        found = []
        for part in self._parts(len(prompts), "writing"):
            values = None if vectors is None else vectors[part]
            found.append(
                self._answers(
                    prompts[part],
                    answers[part],
                    lambda at, v=values: [] if v is None else writing(at, v),
                )
            )
        return torch.cat(found)

    def swept(
        self,
        prompts: Sequence[Prompt],
        answers: Int[Tensor, " prompt"],
        vectors: Float[Tensor, "layer prompt d_model"],
    ) -> Float[Tensor, "layer prompt"]:
        """Probability of a next token with a vector in place of each prompt's state, at every layer
        in turn.

        Cost: one forward of the prompts, and for every layer one token each from there up.
        """
        found = []
        for part in self._parts(len(prompts), "writing at every layer"):
            told = probability(answers[part])
            compared = compare(
                self.model,
                "zero",
                [prompt.tokens for prompt in prompts[part]],
                site=self.site,
                metric=lambda logits, told=told: told(logits.double()),
                layers="all",
                heads=None,
                positions=-1,
                seed=0,
            )
            cells = compared.grid.cells
            written = [vectors[c.layer, part].to(compared.own(c)) for c in cells]
            found.append(run_sweep(self.model, compared, cells, written).values[0])
        return torch.cat(found, 1).cpu()

    def _parts(self, count: int, what: str) -> Iterator[slice]:
        starts = range(0, count, self.batch_size)
        for start in tqdm(starts, what, disable=None if self.progress else True, leave=False):
            yield slice(start, start + self.batch_size)

    def _answers(
        self, prompts: Sequence[Prompt], answers: Tensor, hooks: Callable[[Tensor], list[Hook]]
    ) -> Float[Tensor, "prompt answer"]:
        batch = Batch.of(self.model, [prompt.tokens for prompt in prompts])
        at = batch.positions(-1)
        logits = logits_at(self.model, batch, at, hooks=hooks(at[:, 0]))[:, 0]
        return logits.double().softmax(-1).cpu().gather(-1, answers)
