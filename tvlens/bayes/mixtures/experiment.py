"""`MixtureExperiment`: aligned tasks in three splits, and the interventions on each."""

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
from .prompts import (
    Mixture,
    answer_token_ids,
    build_mixed_prompts,
    build_pure_prompts,
    distinguishable_queries,
)
from .query_delimiter import QueryDelimiter
from .simplex_controls import rotate_vectors


@dataclass(frozen=True)
class CenteredStates:
    """States on prompts, minus the mean vector and the effect of their query.

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
class MixtureExperiment:
    """Settings and data that the steps of a retrieval check share.

    Attributes:
        delimiter: the model and the site that is read and replaced.
        template: format of the pairs.
        shots: demonstrations per prompt.
        seed: random seed.
        train, validation, test: the aligned tasks on three disjoint parts of their inputs.
    """

    delimiter: QueryDelimiter
    template: Template
    shots: int
    seed: int
    train: Sequence[Task]
    validation: Sequence[Task]
    test: Sequence[Task]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return self.delimiter.model.tokenizer

    @cached_property
    def answers(self) -> Int[Tensor, "input task"]:
        """First token of every task's answer to every test input."""
        return answer_token_ids(self.tokenizer, self.test, self.template)

    @cached_property
    def queries(self) -> list[int]:
        """Test inputs on which the answers of all tasks differ."""
        return _require_distinguishable(self.test, self.answers)

    def read_pure_states(self, task: Task, count: int) -> Float[Tensor, "layer context d_model"]:
        """Read states of few-shot prompts of one task, sampled as in `extract`."""
        sampled = contexts(task, shots=self.shots, count=count, seed=self.seed)
        prompts = [build(self.tokenizer, self.template, pairs, *query) for pairs, query in sampled]
        return self.delimiter.read_states(prompts, torch.tensor([p.answer[:1] for p in prompts]))[0]

    def score_layers(self, theta: Float[Tensor, "task layer d_model"]) -> Float[Tensor, " layer"]:
        """Compute the mean probability of task k's answer after injecting theta_k, by layer."""
        answers = answer_token_ids(self.tokenizer, self.validation, self.template)
        queries, tasks = _require_distinguishable(self.validation, answers), range(len(theta))
        prompts = self._zero_shot(self.validation, [q for q in queries for _ in tasks])
        targets = answers[queries].flatten()  # query by query, as the prompts
        vectors = repeat(
            theta, "task layer d_model -> layer (query task) d_model", query=len(queries)
        )
        return self.delimiter.sweep_layers(prompts, targets, vectors).mean(1)

    def build_mixtures(self, count: int) -> list[Mixture]:
        """Build mixed prompts of the test split."""
        options = {"shots": self.shots, "queries": self.queries, "seed": self.seed}
        return build_mixed_prompts(self.tokenizer, self.test, self.template, count=count, **options)

    def read_centered_states(
        self, mixtures: Sequence[Mixture]
    ) -> tuple[CenteredStates, CenteredStates]:
        """Read states of mixed prompts, and of one pure prompt of every task and query.

        The effect of a query, including the mean vector, is the mean over tasks of the states on
        one set of pure prompts. The returned pure prompts are a second set.
        """
        first, held_out = (
            build_pure_prompts(
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
        effects = rearrange(
            states, "layer (query task) d_model -> layer query task d_model", task=len(self.test)
        ).mean(2)
        row = {query: i for i, query in enumerate(self.queries)}

        def center(mixtures: Sequence[Mixture]) -> CenteredStates:
            states, probability = self._read(mixtures)
            centered = states - effects[:, [row[m.query] for m in mixtures]]
            return CenteredStates(mixtures, centered, probability)

        return center(mixtures), center(held_out)

    def inject_combinations(
        self, theta: Float[Tensor, "task d_model"], layer: int, repeats: int
    ) -> tuple[Float[Tensor, "row task"], Int[Tensor, " row"], dict[str, Tensor]]:
        """Inject convex combinations of task vectors and controls into zero-shot test queries.

        Returns:
            The weights of the combinations, from Dirichlet(1), the query of each, and the
            probabilities of the tasks' answers under every condition, `[row task]`.
        """
        rng = np.random.default_rng(self.seed)
        queries = [query for query in self.queries for _ in range(repeats)]
        alpha = torch.from_numpy(rng.dirichlet(np.ones(len(theta)), size=len(queries)))
        center, combined = theta.mean(0), alpha.to(theta) @ theta
        rotated = rotate_vectors(theta[:, None, None], rng)[:, 0]
        vectors = {
            "combination": combined,
            "most likely task": theta[alpha.argmax(-1)],
            "mean vector": center.expand(len(queries), -1),
            "permuted weights": combined[torch.from_numpy(rng.permutation(len(queries)))],
            "rotated vectors": center + alpha.to(theta) @ rotated,
            "nothing": None,
        }
        prompts, answers = self._zero_shot(self.test, queries), self.answers[queries]
        probabilities = {
            name: self.delimiter.replace_states(prompts, answers, layer, values)
            for name, values in vectors.items()
        }
        return alpha, torch.tensor(queries), probabilities

    def _zero_shot(self, tasks: Sequence[Task], queries: Sequence[int]) -> list[Prompt]:
        inputs = [x for x, _ in tasks[0]]
        return [build(self.tokenizer, self.template, [], inputs[query]) for query in queries]

    def _read(self, mixtures: Sequence[Mixture]) -> tuple[Tensor, Tensor]:
        answers = self.answers[[m.query for m in mixtures]]
        return self.delimiter.read_states([m.prompt for m in mixtures], answers)


def _require_distinguishable(
    tasks: Sequence[Task], answers: Int[Tensor, "input task"]
) -> list[int]:
    queries = distinguishable_queries(answers)
    if len(queries) < 2:
        names = ", ".join(task.name for task in tasks)
        raise TvlensError(
            f"the answers of {names} begin with the same token on all but {len(queries)} of "
            f"{len(answers)} inputs: answers do not identify the task"
        )
    return queries
