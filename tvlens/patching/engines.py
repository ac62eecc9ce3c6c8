"""Which engine runs a sweep, in groups that fit into memory, and what follows where it differs.

Three engines give the same logits at different cost: `tree_attention`, `batched` and
`full_forward`, the last of which is the plain one. The fastest that a model allows is taken,
verified against full forwards, and left for the next one with a warning where it differs.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import TvlensError
from ..integers import as_integer
from ..models.loading import model_name
from ..progress import progress_bar
from .base_run import has_shared_prefix
from .batched import batched, first_position
from .comparison import Comparison
from .full_forward import full_forward
from .sweep import Cell
from .tree_attention import tree_attention
from .verification import Disagreement, Forward, compare_examples, mark_inexact, verify_groups

# Fewest values of a sweep that are computed again by full forwards.
_FEWEST = 2


@dataclass(frozen=True)
class Engine:
    """One way to run a group of patches.

    Attributes:
        name: "tree_attention", "batched" or "full_forward".
        forward: from a group of cells and their parts to logits.
        tokens: how many tokens of a pass one cell takes.
        ability: what the engine needs of a model, for the warning where it is missing.
    """

    name: str
    forward: Forward
    tokens: Callable[[Cell], int]
    ability: str


@dataclass(frozen=True)
class SweepValues:
    """The metrics of a sweep and how they were computed.

    Attributes:
        values: every metric under every patch.
        engine: name of the engine.
        verified: how many values (one patch on one example) were computed again by full forwards.
        largest_difference: of their logits, as a share of the largest logit.
    """

    values: Float[Tensor, "metric cell batch"]
    engine: str
    verified: int
    largest_difference: float

    @property
    def settings(self) -> dict[str, Any]:
        """What a result records of the computation."""
        return {
            "engine": self.engine,
            "verified": self.verified,
            "largest_difference": self.largest_difference,
        }


def run_sweep(
    model: Any,
    setup: Comparison,
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    *,
    batch_tokens: int = 512,
    verify: float = 0.01,
    seed: int = 0,
    progress: bool | None = None,
) -> SweepValues:
    """The metrics with each cell's part written in; a part equal to the model's own is not run.

    Args:
        batch_tokens: tokens per forward pass; halved when memory runs out.
        verify: the share of values that are computed again by full forwards, at least two.

    Raises:
        TvlensError: `verify` is no share.
    """
    batch_tokens = as_integer(batch_tokens, name="batch_tokens", minimum=1)
    if not 0 <= verify <= 1:
        raise TvlensError(f"verify={verify}: a share of the values, from 0 to 1, is needed")
    baseline = setup.measure(setup.base.seen.logits)[:, None].repeat(1, len(cells), 1)
    changed = [i for i, c in enumerate(cells) if not torch.equal(parts[i], setup.own(c))]
    order = sorted(changed, key=lambda i: (cells[i].layer, cells[i].position or 0))
    if not order:
        return SweepValues(baseline, "none", 0, 0.0)
    cells, parts = [cells[i] for i in order], [parts[i] for i in order]
    sample = _draw_sample(len(order), len(setup.base.prompts), verify, seed)
    for engine in _engines(model, setup, cells):
        try:
            with progress_bar(total=len(order), desc="patching", progress=progress) as bar:
                values, difference = _run_engine(
                    model, setup, engine, cells, parts, sample, batch_tokens, bar
                )
            baseline[:, order] = values
            verified = len(sample) if engine.ability else 0
            return SweepValues(baseline, engine.name, verified, difference)
        except Disagreement as error:
            mark_inexact(model, engine.name, setup.grid.component)
            if str(error):
                warnings.warn(
                    f"{model_name(model)} cannot {engine.ability} for {setup.grid.component} "
                    f"({error}): patching takes a slower engine",
                    stacklevel=3,
                )
    raise AssertionError("full forwards are not compared with themselves")


def _draw_sample(count: int, batch: int, share: float, seed: int) -> dict[int, int]:
    """Which of the patches are computed again, each on one example: patch -> example."""
    if not share:
        return {}
    rng = np.random.default_rng(seed)
    size = min(count, max(_FEWEST, round(share * count)))
    chosen = sorted(rng.choice(count, size, replace=False).tolist())
    return dict(zip(chosen, rng.integers(0, batch, size).tolist(), strict=True))


def _engines(model: Any, setup: Comparison, cells: Sequence[Cell]) -> Iterator[Engine]:
    """The engines that may run these patches, the fastest first."""
    base, reads = setup.base, setup.reads
    lengths, width = base.prompts.lengths, base.prompts.inputs.shape[1]

    def tree(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return tree_attention(model, base, group, parts, reads)

    def rows(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return batched(model, base, group, parts, reads)

    def full(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return full_forward(model, base.prompts, group, parts, reads, base.vocabulary)

    def branch_tokens(cell: Cell) -> int:
        return len(lengths) * int((lengths - cell.start(lengths)).max())

    def row_tokens(cell: Cell) -> int:
        return len(lengths) * (width - first_position(model, cell, base.prompts))

    # A pattern's keys would have to be those of its own branch.
    if has_shared_prefix(model, base.prompts) and cells[0].site.component != "pattern":
        yield Engine("tree_attention", tree, branch_tokens, "resume at a position")
    yield Engine("batched", rows, row_tokens, "begin at a layer")
    yield Engine("full_forward", full, lambda cell: len(lengths) * width, "")


def _run_engine(
    model: Any,
    setup: Comparison,
    engine: Engine,
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    sample: Mapping[int, int],
    batch_tokens: int,
    bar: tqdm,
) -> tuple[Float[Tensor, "metric cell batch"], float]:
    """The metrics of all cells, and the largest difference of the sample from full forwards.

    Raises:
        Disagreement: the engine is not exact here.
    """
    if engine.ability:
        _verify_engine(model, setup, engine, cells, batch_tokens)
    values: list[Tensor] = []
    sampled: list[Tensor] = []
    for group, logits in _run_groups(engine, cells, parts, batch_tokens):
        values += [setup.measure(one) for one in logits]
        sampled += [one[sample[i]] for i, one in zip(group, logits, strict=True) if i in sample]
        bar.update(len(group))
    difference = 0.0
    if engine.ability and sample:
        difference = compare_examples(
            model,
            setup.base,
            [cells[i] for i in sample],
            [parts[i] for i in sample],
            list(sample.values()),
            torch.stack(sampled),
            setup.reads,
        )
    return torch.stack(values, dim=1), difference


def _verify_engine(
    model: Any, setup: Comparison, engine: Engine, cells: Sequence[Cell], batch_tokens: int
) -> None:
    sizes = [(cell.layer, engine.tokens(cell)) for cell in cells]
    groups = list(_split(sizes, batch_tokens))
    verify_groups(
        model,
        setup.base,
        [[cells[i] for i in group] for group in groups],
        max(sum(sizes[i][1] for i in group) for group in groups),
        setup.reads,
        engine=engine.name,
        forward=engine.forward,
    )


def _split(sizes: Sequence[tuple[int, int]], batch_tokens: int) -> Iterator[range]:
    """Cells, given by layer and tokens, in groups of neighbouring layers that fit into a pass."""
    start = 0
    while start < len(sizes):
        count = _fitting(sizes[start:], batch_tokens)
        yield range(start, start + count)
        start += count


def _run_groups(
    engine: Engine, cells: Sequence[Cell], parts: Sequence[Tensor], batch_tokens: int
) -> Iterator[tuple[range, Float[Tensor, "cell batch position vocab"]]]:
    """Every group with its logits; lack of memory halves a group and goes on."""
    sizes = [(cell.layer, engine.tokens(cell)) for cell in cells]
    start = 0
    while start < len(cells):
        group = range(start, start + _fitting(sizes[start:], batch_tokens))
        try:
            logits = engine.forward([cells[i] for i in group], [parts[i] for i in group])
        except RuntimeError as error:
            if "memory" not in str(error).lower() or len(group) == 1:
                raise
            batch_tokens = sum(sizes[i][1] for i in group) // 2
            continue
        yield group, logits
        start = group.stop


def _fitting(sizes: Sequence[tuple[int, int]], batch_tokens: int) -> int:
    """How many of these cells, given by layer and tokens, go into the next pass.

    Whole layers where they fit: a pass begins at its lowest layer, so a layer that is cut in two
    costs the upper layers' cells a block more. A layer too large is cut into even pieces.
    """
    count = filled = 0
    for _, layer in itertools.groupby(sizes, key=lambda pair: pair[0]):
        tokens = [n for _, n in layer]
        if filled + sum(tokens) <= batch_tokens:
            count, filled = count + len(tokens), filled + sum(tokens)
            continue
        if count:
            return count
        share = sum(tokens) / -(-sum(tokens) // batch_tokens)
        return max(1, sum(total <= share for total in itertools.accumulate(tokens)))
    return count
