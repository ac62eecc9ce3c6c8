"""One dataset in the study of task matrices: its twins, and what a matrix between them does."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...files import replacing_files, write
from ...labelled import LabelledDataset
from ...matrices import (
    Examples,
    LayerMap,
    LayerMoments,
    MatrixReport,
    Member,
    PairMoments,
    RankCurve,
    SampleCurve,
    TaskMatrix,
    distance_from_identity,
    evaluate,
    layer_map,
    pooled,
    rank_curve,
    sample_curve,
    states,
    weight_distance,
)
from ...matrices.evaluation import Selection
from ...matrices.examples import Head, decide
from ...models import batches
from ...vectors.extraction import provenance
from .twins import Twins

# Ranks offered to the selection; None is the whole matrix.
_RANKS = (8, 32, 128, None)
_MAX_TOKENS = 64

# What reports call the base model with adapters.
LORA = "lora"


@dataclass(frozen=True)
class Case:
    """What was found on one dataset.

    Attributes:
        name: of the dataset.
        report: the matrix beside its baselines on the test part, by seed of the finetuning; what
            follows is of the first seed.
        ranks: accuracy by rank, on the validation part.
        samples: accuracy by number of training examples.
        layers: R^2 of all pairs of layers, on the validation part.
        matrix: the chosen matrix.
        facts: sizes, models, distances, as JSON.
    """

    name: str
    report: MatrixReport
    ranks: RankCurve
    samples: SampleCurve
    layers: LayerMap
    matrix: TaskMatrix
    facts: dict

    def save(self, folder: str | os.PathLike, key: dict) -> None:
        """Write all of it into a folder, in place of a case that stands there.

        While the files are written the old case stays whole; parts of two cases are never read as
        one.

        Args:
            key: what another run has to match.
        """
        about = {"key": key, "facts": self.facts, "sizes": list(self.samples.sizes)}
        with replacing_files(folder, marker="case.json") as new:
            for name in ("report", "ranks", "layers", "matrix"):
                getattr(self, name).save(new / f"{name}.safetensors")
            for size, report in zip(about["sizes"], self.samples.reports, strict=True):
                report.save(new / f"samples-{size}.safetensors")
            write(new / "case.json", json.dumps(about, indent=1))

    @classmethod
    def kept(cls, folder: str | os.PathLike, name: str, key: dict) -> "Case | None":
        """What `save` wrote with the same key, if it did."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if about.get("key") != json.loads(json.dumps(key)):
            return None
        read: dict[str, Any] = {"report": MatrixReport, "ranks": RankCurve, "layers": LayerMap}
        read["matrix"] = TaskMatrix
        try:
            parts = {part: kind.load(folder / f"{part}.safetensors") for part, kind in read.items()}
            sizes = tuple(about["sizes"])
            files = [folder / f"samples-{size}.safetensors" for size in sizes]
            samples = SampleCurve(sizes, tuple(MatrixReport.load(file) for file in files))
        except TvlensError:
            return None  # another version's files are no reason to stop
        return cls(name, samples=samples, facts=about["facts"], **parts)


def study(
    seeds: Sequence[Twins],
    name: str,
    parts: Sequence[LabelledDataset],
    *,
    adapters: Sequence[Twins] = (),
    selection: Selection,
    draws: Sequence[int],
    batch_size: int,
    progress: bool,
) -> tuple[Case, Member]:
    """Everything about the matrices between twins on one dataset, and what sharing needs of it.

    Args:
        seeds: twins of one base model, by seed of the finetuning.
        adapters: the base model with adapters that learnt the same, by seed; none to leave out.
        draws: seeds of the examples of the curve over their number; the first one of all else.
    """
    twins = seeds[0]
    reading = dict(batch_size=batch_size, progress=progress)
    base = [_read(twins.base, part, twins.readout, **reading) for part in parts]
    reports, found = [], []
    for i, one in enumerate(seeds):
        tuned = [_read(one.tuned, part, one.readout, **reading) for part in parts]
        three, decides = _decided(one, parts, base, tuned)
        others = {LORA: _by_itself(adapters[i], parts[2], **reading)} if adapters else {}
        options = dict(head=decides, ranks=_ranks(one), selection=selection, seed=draws[0] + i)
        reports.append(evaluate(*three, others=others, **options))
        found.append((tuned, three, decides))
    tuned, three, decides = found[0]
    matrix = reports[0].matrix(three[0])
    few = dict(baselines=("ridge_probe", "finetuned", "permuted"), selection=selection)
    case = Case(
        name,
        pooled(reports),
        rank_curve(_whole(reports[0], three[0]), three[1], head=decides, seed=draws[0]),
        sample_curve(*three, head=decides, sizes=_sizes(three[0].labels), seeds=draws, **few),
        layer_map(_moments(base[0], tuned[0]), held_out=_moments(base[1], tuned[1])),
        matrix,
        _facts(twins, parts, matrix) | {"seeds": len(seeds)},
    )
    return case, Member(PairMoments().update(base[0], three[0].tuned), *three[1:], decides)  # type: ignore[call-arg]


def member(
    twins: Twins, parts: Sequence[LabelledDataset], *, batch_size: int, progress: bool
) -> Member:
    """What sharing needs of a dataset that was studied before."""
    base, tuned = (
        [_read(m, p, twins.readout, batch_size=batch_size, progress=progress) for p in parts]
        for m in (twins.base, twins.tuned)
    )
    three, decides = _decided(twins, parts, base, tuned)
    return Member(PairMoments().update(base[0], three[0].tuned), *three[1:], decides)  # type: ignore[call-arg]


def _decided(
    twins: Twins, parts: Sequence[LabelledDataset], base: Sequence[Tensor], tuned: Sequence[Tensor]
) -> tuple[list[Examples], Head]:
    """The three parts, and what decides on tuned states: the twin's classifier, or a probe."""
    labels = [torch.tensor(part.labels) for part in parts]
    three = [Examples(x, y[-1], z) for x, y, z in zip(base, tuned, labels, strict=True)]
    return three, twins.head or probe(three[0], len(parts[0].classes))


def _by_itself(twins: Twins, part: LabelledDataset, **reading: Any) -> Int[Tensor, " n"]:
    """What a classifier decides on its own states."""
    last = _read(twins.tuned, part, twins.readout, **reading)[-1]
    return decide(twins.head, last, last)


def _ranks(twins: Twins) -> list[int | None]:
    width = min(twins.base.cfg.d_model, twins.tuned.cfg.d_model)
    return [rank for rank in _RANKS if rank is None or rank < width]


def probe(train: Examples, classes: int) -> Head:
    """What decides for a twin without a classifier: ridge to one-hot labels on its last states."""
    one_hot = torch.nn.functional.one_hot(train.labels, classes).double()
    fitted = TaskMatrix.from_states(train.tuned, one_hot)
    return fitted.predict


def _read(
    model: Any, part: LabelledDataset, readout: str, *, batch_size: int, progress: bool
) -> Float[Tensor, "layer n d"]:
    rows = batches(model, part.inputs, batch_size=batch_size, max_tokens=_MAX_TOKENS)
    return states(model, rows, readout=readout, progress=progress)


def _whole(report: MatrixReport, train: Examples) -> TaskMatrix:
    """The chosen matrix before its rank was reduced."""
    return replace(report, rank=torch.zeros_like(report.rank)).matrix(train)


def _moments(x: Float[Tensor, "layer n d"], y: Float[Tensor, "target n d"]) -> LayerMoments:
    layers, targets = tuple(range(len(x))), tuple(range(len(y)))
    return LayerMoments(layers, targets, (PairMoments().update(x, y),))


def _sizes(labels: Int[Tensor, " n"]) -> list[int]:
    """Two examples a class, then doubling, up to all."""
    sizes, size = [], max(2, 2 * len(labels.unique()))
    while size < len(labels):
        sizes.append(size)
        size *= 2
    return [*sizes, len(labels)]


def _facts(twins: Twins, parts: Sequence[LabelledDataset], matrix: TaskMatrix) -> dict:
    moved = weight_distance(twins.base, twins.tuned)
    return {
        "versions": provenance(twins.base)["versions"],
        "kind": parts[0].kind,
        "classes": len(parts[0].classes),
        "train": len(parts[0]),
        "validation": len(parts[1]),
        "test": len(parts[2]),
        "readout": twins.readout,
        "decides": "classifier" if twins.head else "ridge probe on the tuned states",
        "weights moved": moved.norm,
        "weights moved, share": moved.relative,
        "||W - I|| / ||I||": distance_from_identity(matrix)
        if matrix.d_base == matrix.d_tuned
        else None,
    }
