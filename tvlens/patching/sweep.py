"""`run_sweep`: run all patches of a grid by the fastest engine that is exact on the model.

Three engines give the same logits at different cost: `tree_attention`, `batched` and
`full_forward`, the last of which is the plain one. The fastest that a model allows is taken,
verified against full forwards, and replaced by the next one with a warning where it differs.
"""

import functools
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
from .engines import PatchGroup, batched, first_position, full_forward, tree_attention
from .grid import Patch
from .setup import PatchingSetup, has_shared_prefix
from .verification import Disagreement, Forward, compare_examples, mark_inexact, verify_groups

# Fewest values of a sweep that are computed again by full forwards.
_FEWEST = 2


@dataclass(frozen=True)
class SweepOptions:
    """How the patches of a sweep are run.

    Attributes:
        batch_tokens: tokens per forward pass; halved when memory runs out.
        verify: share of the values that are computed again by full forward passes, at least two;
            0 for none.
        seed: seed of the sample that is verified.
        progress: whether to show a progress bar; by default on a terminal.

    Raises:
        TvlensError: `verify` is no share, or `batch_tokens` is below 1.
    """

    batch_tokens: int = 512
    verify: float = 0.01
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        batch_tokens = as_integer(self.batch_tokens, name="batch_tokens", minimum=1)
        object.__setattr__(self, "batch_tokens", batch_tokens)
        if not 0 <= self.verify <= 1:
            raise TvlensError(
                f"verify={self.verify}: a share of the values, from 0 to 1, is needed"
            )


@dataclass(frozen=True)
class Engine:
    """A method of running a group of patches.

    Attributes:
        name: "tree_attention", "batched" or "full_forward".
        forward: from a group of patches to logits.
        tokens: from a patch to its number of tokens in a pass.
        ability: what the model must be able to do, for the warning if it cannot.
    """

    name: str
    forward: Forward
    tokens: Callable[[Patch], int]
    ability: str


@dataclass(frozen=True)
class SweepValues:
    """The metrics of a sweep and how they were computed.

    Attributes:
        values: every metric under every patch.
        engine: name of the engine.
        verified: number of values (one patch on one example) that full forward passes verified.
        largest_difference: largest difference of their logits, as a share of the largest logit.
    """

    values: Float[Tensor, "metric patch batch"]
    engine: str
    verified: int
    largest_difference: float

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a result records."""
        return {
            "engine": self.engine,
            "verified": self.verified,
            "largest_difference": self.largest_difference,
        }


def run_sweep(
    model: Any,
    setup: PatchingSetup,
    patches: Sequence[Patch],
    replacements: Sequence[Tensor],
    options: SweepOptions | None = None,
) -> SweepValues:
    """Compute the metrics under each patch; replacements that change nothing are not run.

    Args:
        patches: patches of the setup's grid.
        replacements: activation that each patch writes.
        options: how the patches are run.
    """
    options = options or SweepOptions()
    baseline = setup.measure(setup.base.site_activations.logits)[:, None].repeat(1, len(patches), 1)
    changed = [
        i
        for i, patch in enumerate(patches)
        if not torch.equal(replacements[i], setup.base_part(patch))
    ]
    order = sorted(changed, key=lambda i: (patches[i].layer, patches[i].position or 0))
    if not order:
        return SweepValues(baseline, "none", 0, 0.0)
    group = PatchGroup(patches, replacements).take(order)
    sample = _draw_sample(len(order), len(setup.base.prompts), options.verify, options.seed)
    for engine in _list_engines(model, setup):
        try:
            with progress_bar(total=len(order), desc="patching", progress=options.progress) as bar:
                values, difference = _run_engine(
                    model,
                    setup,
                    engine,
                    group,
                    sample=sample,
                    batch_tokens=options.batch_tokens,
                    bar=bar,
                )
            baseline[:, order] = values
            verified = len(sample) if engine.ability else 0
            return SweepValues(baseline, engine.name, verified, difference)
        except Disagreement as error:
            mark_inexact(model, engine.name, setup.grid.component)
            if str(error):
                warnings.warn(
                    f"{model_name(model)} cannot {engine.ability} for {setup.grid.component} "
                    f"({error}): patching uses a slower engine",
                    stacklevel=3,
                )
    raise AssertionError("full forwards are not compared with themselves")


def _draw_sample(count: int, batch: int, share: float, seed: int) -> dict[int, int]:
    """Draw the patches that are verified, each on one example: patch -> example."""
    if not share:
        return {}
    rng = np.random.default_rng(seed)
    size = min(count, max(_FEWEST, round(share * count)))
    chosen = sorted(rng.choice(count, size, replace=False).tolist())
    return dict(zip(chosen, rng.integers(0, batch, size).tolist(), strict=True))


def _list_engines(model: Any, setup: PatchingSetup) -> Iterator[Engine]:
    """Yield the engines that can run these patches, the fastest first."""
    base = setup.base
    lengths, width = base.prompts.lengths, base.prompts.inputs.shape[1]

    def branch_tokens(patch: Patch) -> int:
        return len(lengths) * int((lengths - patch.first_position(lengths)).max())

    def row_tokens(patch: Patch) -> int:
        return len(lengths) * (width - first_position(model, patch, base.prompts))

    # A pattern's keys would have to be those of its own branch.
    if has_shared_prefix(model, base.prompts) and setup.grid.component != "pattern":
        forward = functools.partial(tree_attention, model, base)
        yield Engine("tree_attention", forward, branch_tokens, "resume at a position")
    forward = functools.partial(batched, model, base)
    yield Engine("batched", forward, row_tokens, "begin at a layer")
    forward = functools.partial(full_forward, model, base)
    yield Engine("full_forward", forward, lambda patch: len(lengths) * width, "")


def _run_engine(
    model: Any,
    setup: PatchingSetup,
    engine: Engine,
    group: PatchGroup,
    *,
    sample: Mapping[int, int],
    batch_tokens: int,
    bar: tqdm,
) -> tuple[Float[Tensor, "metric patch batch"], float]:
    """Compute all metrics, and the largest difference of the sample from full forward passes.

    Raises:
        Disagreement: the engine is not exact here.
    """
    if engine.ability:
        _verify_engine(model, setup, engine, group, batch_tokens)
    values: list[Tensor] = []
    sampled: list[Tensor] = []
    for indices, logits in _run_groups(engine, group, batch_tokens):
        values += [setup.measure(patched) for patched in logits]
        sampled += [
            patched[sample[i]] for i, patched in zip(indices, logits, strict=True) if i in sample
        ]
        bar.update(len(indices))
    difference = 0.0
    if engine.ability and sample:
        examples = list(sample.values())
        difference = compare_examples(
            model, setup.base, group.take(list(sample)), examples, torch.stack(sampled)
        )
    return torch.stack(values, dim=1), difference


def _verify_engine(
    model: Any, setup: PatchingSetup, engine: Engine, group: PatchGroup, batch_tokens: int
) -> None:
    sizes = [(patch.layer, engine.tokens(patch)) for patch in group.patches]
    groups = list(_split(sizes, batch_tokens))
    verify_groups(
        model,
        setup.base,
        [[group.patches[i] for i in indices] for indices in groups],
        max(sum(sizes[i][1] for i in indices) for indices in groups),
        engine=engine.name,
        forward=engine.forward,
    )


def _split(sizes: Sequence[tuple[int, int]], batch_tokens: int) -> Iterator[range]:
    """Split patches, given by layer and tokens, into groups that fit into a pass."""
    start = 0
    while start < len(sizes):
        count = _count_fitting(sizes[start:], batch_tokens)
        yield range(start, start + count)
        start += count


def _run_groups(
    engine: Engine, group: PatchGroup, batch_tokens: int
) -> Iterator[tuple[range, Float[Tensor, "patch batch position vocab"]]]:
    """Yield indices and logits of every pass; passes are halved when memory runs out."""
    sizes = [(patch.layer, engine.tokens(patch)) for patch in group.patches]
    start = 0
    while start < len(group):
        indices = range(start, start + _count_fitting(sizes[start:], batch_tokens))
        try:
            logits = engine.forward(group.take(indices))
        except RuntimeError as error:
            if "memory" not in str(error).lower() or len(indices) == 1:
                raise
            batch_tokens = sum(sizes[i][1] for i in indices) // 2
            continue
        yield indices, logits
        start = indices.stop


def _count_fitting(sizes: Sequence[tuple[int, int]], batch_tokens: int) -> int:
    """Count the patches, given by layer and tokens, that fit into the next pass.

    Whole layers where they fit: a pass begins at its lowest layer, so a layer that is cut in two
    costs the upper layers' patches a block more. A layer too large is cut into even pieces.
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
