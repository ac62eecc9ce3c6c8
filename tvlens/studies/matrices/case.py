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
from ...files import write
from ...labelled import Labelled
from ...matrices import (
    Examples,
    LayerMap,
    LayerMoments,
    MatrixReport,
    PairMoments,
    RankCurve,
    SampleCurve,
    TaskMatrix,
    distance_from_identity,
    evaluate,
    layer_map,
    rank_curve,
    sample_curve,
    states,
    weight_distance,
)
from ...matrices.examples import Head
from ...models import batches
from ...vectors.extract import provenance
from .twins import Twins

# Ranks offered to the selection; None is the whole matrix.
_RANKS = (8, 32, 128, None)
_MAX_TOKENS = 64


@dataclass(frozen=True)
class Case:
    """What was found on one dataset.

    Attributes:
        name: of the dataset.
        report: the matrix beside its baselines on the test part.
        oracle: accuracy with everything chosen on the test part, as the paper does.
        ranks: accuracy by rank, on the validation part.
        samples: accuracy by number of training examples; None where it was not asked for.
        layers: R^2 of all pairs of layers, on the validation part.
        matrix: the chosen matrix.
        facts: sizes, models, distances, as JSON.
    """

    name: str
    report: MatrixReport
    oracle: float
    ranks: RankCurve
    samples: SampleCurve | None
    layers: LayerMap
    matrix: TaskMatrix
    facts: dict

    def save(self, folder: str | os.PathLike, key: dict) -> None:
        """Write all of it into a folder; `key` is what another run has to match."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("report", "ranks", "layers", "matrix"):
            getattr(self, name).save(folder / f"{name}.safetensors")
        sizes = self.samples.sizes if self.samples else ()
        for size, report in zip(sizes, self.samples.reports if self.samples else (), strict=True):
            report.save(folder / f"samples-{size}.safetensors")
        about = {"key": key, "oracle": self.oracle, "facts": self.facts, "sizes": list(sizes)}
        write(folder / "case.json", json.dumps(about, indent=1))

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
        read = {"report": MatrixReport, "ranks": RankCurve, "layers": LayerMap}
        read["matrix"] = TaskMatrix
        try:
            parts = {part: kind.load(folder / f"{part}.safetensors") for part, kind in read.items()}
            sizes = tuple(about["sizes"])
            files = [folder / f"samples-{size}.safetensors" for size in sizes]
            samples = SampleCurve(sizes, tuple(MatrixReport.load(file) for file in files))
        except TvlensError:
            return None  # another version's files are no reason to stop
        samples = samples if sizes else None
        return cls(name, oracle=about["oracle"], samples=samples, facts=about["facts"], **parts)


def study(
    twins: Twins,
    name: str,
    parts: Sequence[Labelled],
    *,
    selection: str,
    seeds: Sequence[int],
    curve: bool,
    batch_size: int,
    progress: bool,
) -> Case:
    """Everything about the matrices between these twins on one dataset."""
    reading = dict(readout=twins.readout, batch_size=batch_size, progress=progress)
    base, tuned = ([_read(m, p, **reading) for p in parts] for m in (twins.base, twins.tuned))
    labels = [torch.tensor(part.labels) for part in parts]
    three = [Examples(x, y[-1], z) for x, y, z in zip(base, tuned, labels, strict=True)]
    decides = twins.head or probe(three[0], len(parts[0].classes))
    ranks = [rank for rank in _RANKS if rank is None or rank < _width(twins)]
    options = dict(head=decides, ranks=ranks, seed=seeds[0])
    report = evaluate(*three, selection=selection, **options)
    oracle = evaluate(*three, selection="oracle", baselines=(), **options).accuracy()
    matrix = report.matrix(three[0])
    few = dict(baselines=("ridge_probe", "finetuned", "permuted"), selection=selection)
    return Case(
        name,
        report,
        oracle,
        rank_curve(_whole(report, three[0]), three[1], head=decides, seed=seeds[0]),
        sample_curve(*three, head=decides, sizes=_sizes(labels[0]), seeds=seeds, **few)
        if curve
        else None,
        layer_map(_moments(base[0], tuned[0]), held_out=_moments(base[1], tuned[1])),
        matrix,
        _facts(twins, parts, matrix),
    )


def probe(train: Examples, classes: int) -> Head:
    """What decides for a twin without a classifier: ridge to one-hot labels on its last states."""
    one_hot = torch.nn.functional.one_hot(train.labels, classes).double()
    fitted = TaskMatrix.from_states(train.tuned, one_hot)
    return fitted.predict


def _read(
    model: Any, part: Labelled, *, readout: str, batch_size: int, progress: bool
) -> Float[Tensor, "layer n d"]:
    rows = batches(model, part.inputs, batch_size=batch_size, max_tokens=_MAX_TOKENS)
    return states(model, rows, readout=readout, progress=progress)


def _width(twins: Twins) -> int:
    return min(twins.base.cfg.d_model, twins.tuned.cfg.d_model)


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


def _facts(twins: Twins, parts: Sequence[Labelled], matrix: TaskMatrix) -> dict:
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
