"""`Experiment`: tasks with common inputs, split in three, and what is read and written on each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...tasks import Prompt, Task, Template, build, contexts
from .delimiter import Delimiter
from .mixture import Mixture, answer_tokens, mixed_prompts, pure_prompts, tellable
from .simplices import turned_vectors


@dataclass(frozen=True)
class Points:
    """States on prompts, less the mean vector and their query's effect.

    Attributes:
        mixtures: the prompts.
        values: the states.
        probability: the model's, of the first token of each task's answer.
    """

    mixtures: Sequence[Mixture]
    values: Float[Tensor, "layer prompt d_model"]
    probability: Float[Tensor, "prompt task"]

    @property
    def queries(self) -> Int[Tensor, " prompt"]:
        """The query of every prompt."""
        return torch.tensor([m.query for m in self.mixtures])

    @property
    def sources(self) -> Int[Tensor, "prompt shot"]:
        """The task of every demonstration."""
        return torch.tensor([m.sources for m in self.mixtures])


@dataclass(frozen=True)
class Experiment:
    """What all steps of a check share.

    Attributes:
        place: where the model is read and written.
        template: how pairs are written.
        shots: demonstrations per prompt.
        seed: of all draws.
        train, select, test: the aligned tasks on three disjoint parts of their inputs.
    """

    place: Delimiter
    template: Template
    shots: int
    seed: int
    train: Sequence[Task]
    select: Sequence[Task]
    test: Sequence[Task]

    @property
    def tokenizer(self) -> Any:
        return self.place.model.tokenizer

    @cached_property
    def answers(self) -> Int[Tensor, "input task"]:
        """First token of every task's answer to every test input."""
        return answer_tokens(self.tokenizer, self.test, self.template)

    @cached_property
    def queries(self) -> list[int]:
        """The test inputs whose answers tell the tasks apart."""
        return _tellable(self.test, self.answers)

    def pure_states(self, task: Task, count: int) -> Float[Tensor, "layer context d_model"]:
        """States of few-shot prompts of one task, drawn as `extract` does."""
        drawn = contexts(task, shots=self.shots, count=count, seed=self.seed)
        prompts = [build(self.tokenizer, self.template, shown, *query) for shown, query in drawn]
        return self.place.read(prompts, torch.tensor([p.answer[:1] for p in prompts]))[0]

    def selection(self, theta: Float[Tensor, "task layer d_model"]) -> Float[Tensor, " layer"]:
        """Mean probability of task k's answer with theta_k in bare queries of the second part."""
        answers = answer_tokens(self.tokenizer, self.select, self.template)
        queries, tasks = _tellable(self.select, answers), range(len(theta))
        prompts = self._bare(self.select, [q for q in queries for _ in tasks])
        own = answers[queries].flatten()  # query by query, as the prompts are
        rows = repeat(theta, "task layer d_model -> layer (query task) d_model", query=len(queries))
        return self.place.swept(prompts, own, rows).mean(1)

    def mixtures(self, count: int) -> list[Mixture]:
        """Mixed prompts of the third part."""
        draw = {"shots": self.shots, "queries": self.queries, "seed": self.seed}
        return mixed_prompts(self.tokenizer, self.test, self.template, count=count, **draw)

    def points(self, mixtures: Sequence[Mixture]) -> tuple[Points, Points]:
        """States of mixed prompts, and of one pure prompt of every task and query.

        A query's own part is its mean state over tasks on one set of pure prompts: the mean vector
        and the query's effect in one. The pure prompts that are given back are others.
        """
        first, held_out = (
            pure_prompts(
                self.tokenizer,
                self.test,
                self.template,
                shots=self.shots,
                queries=self.queries,
                seed=self.seed + i,
            )
            for i in (1, 2)
        )
        states, _ = self._read(first)
        own = rearrange(
            states, "layer (query task) d_model -> layer query task d_model", task=len(self.test)
        ).mean(2)
        row = {query: i for i, query in enumerate(self.queries)}

        def less_own(mixtures: Sequence[Mixture]) -> Points:
            states, probability = self._read(mixtures)
            return Points(mixtures, states - own[:, [row[m.query] for m in mixtures]], probability)

        return less_own(mixtures), less_own(held_out)

    def injected(
        self, theta: Float[Tensor, "task d_model"], layer: int, repeats: int
    ) -> tuple[Float[Tensor, "row task"], Int[Tensor, " row"], dict[str, Tensor]]:
        """Combinations written into bare test queries, and controls.

        Returns:
            The combinations' weights from Dirichlet(1), the query of each, and the probabilities
            of the tasks' answers under every condition, `[row task]`.
        """
        rng = np.random.default_rng(self.seed)
        asked = [query for query in self.queries for _ in range(repeats)]
        alpha = torch.from_numpy(rng.dirichlet(np.ones(len(theta)), size=len(asked)))
        centre, combined = theta.mean(0), alpha.to(theta) @ theta
        turned = turned_vectors(theta[:, None, None], rng)[:, 0]
        vectors = {
            "combination": combined,
            "most likely task": theta[alpha.argmax(-1)],
            "mean vector": centre.expand(len(asked), -1),
            "permuted weights": combined[torch.from_numpy(rng.permutation(len(asked)))],
            "turned vectors": centre + alpha.to(theta) @ turned,
            "nothing": None,
        }
        prompts, answers = self._bare(self.test, asked), self.answers[asked]
        found = {k: self.place.written(prompts, answers, layer, v) for k, v in vectors.items()}
        return alpha, torch.tensor(asked), found

    def _bare(self, tasks: Sequence[Task], queries: Sequence[int]) -> list[Prompt]:
        inputs = [x for x, _ in tasks[0]]
        return [build(self.tokenizer, self.template, [], inputs[query]) for query in queries]

    def _read(self, mixtures: Sequence[Mixture]) -> tuple[Tensor, Tensor]:
        answers = self.answers[[m.query for m in mixtures]]
        return self.place.read([m.prompt for m in mixtures], answers)


def _tellable(tasks: Sequence[Task], answers: Int[Tensor, "input task"]) -> list[int]:
    queries = tellable(answers)
    if len(queries) < 2:
        names = ", ".join(task.name for task in tasks)
        raise TvlensError(
            f"the answers of {names} begin with the same token on all but {len(queries)} of "
            f"{len(answers)} inputs: what the model answers would not tell the task"
        )
    return queries
