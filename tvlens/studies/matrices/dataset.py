"""One dataset of the study of task matrices: model pairs and the matrices between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...labelled import LabelledDataset
from ...matrices import (
    Examples,
    LayerMap,
    LayerMoments,
    LearningCurve,
    MatrixReport,
    PairMoments,
    RankCurve,
    SharingTask,
    TaskMatrix,
    collect_states,
    distance_from_identity,
    evaluate,
    layer_map,
    learning_curve,
    pool_reports,
    rank_curve,
    weight_distance,
)
from ...matrices.evaluation import Selection
from ...matrices.examples import Head, predict_classes
from ...models import batches
from ...results import Result
from ...vectors.extraction import provenance
from .model_pair import ModelPair

# Ranks offered to the selection; None is the full matrix.
_RANKS = (8, 32, 128, None)
_MAX_TOKENS = 64
_BATCH_SIZE = 32

# Name of the base model with adapters among the methods of a report.
LORA = "lora"


@dataclass(frozen=True)
class DatasetResult(Result):
    """The results on one dataset.

    Attributes:
        name: name of the dataset.
        report: the matrix and its baselines on the test part, by seed of the finetuning; all
            other fields are of the first seed.
        ranks: accuracy by rank, on the validation part.
        samples: accuracy by number of training examples.
        layers: R^2 of all pairs of layers, on the validation part.
        matrix: the chosen matrix.
        facts: sizes, models and distances, as JSON.
    """

    name: str
    report: MatrixReport
    ranks: RankCurve
    samples: LearningCurve
    layers: LayerMap
    matrix: TaskMatrix
    facts: dict


@dataclass(frozen=True)
class _PairData:
    """States of a model pair on the three parts of a dataset.

    Attributes:
        parts: training, validation and test examples.
        base, tuned: states [layer n d] of both models at all layers, by part.
        head: from the finetuned model's last states to logits: its classifier, or a probe.
    """

    parts: tuple[Examples, ...]
    base: Sequence[Tensor]
    tuned: Sequence[Tensor]
    head: Head

    @classmethod
    def collect(
        cls,
        pair: ModelPair,
        datasets: Sequence[LabelledDataset],
        base: Sequence[Tensor] | None = None,
    ) -> "_PairData":
        """Run both models, or the finetuned one only if the base states are given."""
        if base is None:
            base = [_collect_states(pair.base, data, pair.readout) for data in datasets]
        tuned = [_collect_states(pair.tuned, data, pair.readout) for data in datasets]
        labels = [torch.tensor(data.labels) for data in datasets]
        parts = tuple(Examples(x, y[-1], z) for x, y, z in zip(base, tuned, labels, strict=True))
        return cls(parts, base, tuned, pair.head or _fit_probe(parts[0], len(datasets[0].classes)))

    def sharing_task(self) -> SharingTask:
        """Input of `evaluate_sharing` for this dataset."""
        train, validation, test = self.parts
        return SharingTask(
            PairMoments().update(train.base, train.tuned), validation, test, self.head
        )


def analyze_dataset(
    pairs: Sequence[ModelPair],
    datasets: Sequence[LabelledDataset],
    *,
    adapters: Sequence[ModelPair] = (),
    selection: Selection,
    seeds: Sequence[int],
) -> tuple[DatasetResult, SharingTask]:
    """Compute all results of the matrices between model pairs on one dataset.

    Args:
        pairs: finetunings of one base model, by seed.
        datasets: training, validation and test part.
        adapters: the base model with finetuned adapters, by seed; empty to leave out.
        selection: as in `tvlens.matrices.evaluate`.
        seeds: seeds of the random subsets of the learning curve; the first one serves all else.

    Returns:
        The result, and what `evaluate_sharing` needs of the dataset.
    """
    data, reports = _evaluate_pairs(pairs, datasets, adapters, selection, seeds[0])
    train, validation, _ = data.parts
    matrix = reports[0].refit(train)
    result = DatasetResult(
        datasets[0].name,
        pool_reports(reports),
        rank_curve(reports[0].refit(train, full_rank=True), validation, head=data.head),
        learning_curve(
            *data.parts,
            head=data.head,
            sizes=_doubling_sizes(train.labels),
            seeds=seeds,
            baselines=("ridge_probe", "finetuned", "permuted"),
            selection=selection,
        ),
        layer_map(
            _layer_moments(data.base[0], data.tuned[0]),
            held_out=_layer_moments(data.base[1], data.tuned[1]),
        ),
        matrix,
        _describe(pairs[0], datasets, matrix) | {"seeds": len(pairs)},
    )
    return result, data.sharing_task()


def _evaluate_pairs(
    pairs: Sequence[ModelPair],
    datasets: Sequence[LabelledDataset],
    adapters: Sequence[ModelPair],
    selection: Selection,
    seed: int,
) -> tuple[_PairData, list[MatrixReport]]:
    """Evaluate the matrices of every model pair; also returns the states of the first pair."""
    data, reports = None, []
    for i, pair in enumerate(pairs):
        pair_data = _PairData.collect(pair, datasets, data and data.base)
        data = data or pair_data
        others = {LORA: _predict_with_own_head(adapters[i], datasets[2])} if adapters else {}
        reports.append(
            evaluate(
                *pair_data.parts,
                head=pair_data.head,
                ranks=_ranks_below(pair),
                selection=selection,
                other_predictions=others,
                seed=seed + i,
            )
        )
    assert data is not None
    return data, reports


def collect_sharing_task(pair: ModelPair, datasets: Sequence[LabelledDataset]) -> SharingTask:
    """Collect the input of `evaluate_sharing` for a dataset whose result was cached."""
    return _PairData.collect(pair, datasets).sharing_task()


def _collect_states(model: Any, data: LabelledDataset, readout: str) -> Float[Tensor, "layer n d"]:
    rows = batches(model, data.inputs, batch_size=_BATCH_SIZE, max_tokens=_MAX_TOKENS)
    return collect_states(model, rows, readout=readout, progress=False)


def _predict_with_own_head(pair: ModelPair, data: LabelledDataset) -> Int[Tensor, " n"]:
    """Predict classes from the finetuned classifier's own states."""
    states = _collect_states(pair.tuned, data, pair.readout)[-1]
    return predict_classes(pair.head, states, states)


def _ranks_below(pair: ModelPair) -> list[int | None]:
    width = min(pair.base.cfg.d_model, pair.tuned.cfg.d_model)
    return [rank for rank in _RANKS if rank is None or rank < width]


def _fit_probe(train: Examples, classes: int) -> Head:
    """Fit a head for a model without a classifier: ridge to one-hot labels on its last states."""
    one_hot = torch.nn.functional.one_hot(train.labels, classes).double()
    return TaskMatrix.from_states(train.tuned, one_hot).predict


def _layer_moments(x: Float[Tensor, "layer n d"], y: Float[Tensor, "target n d"]) -> LayerMoments:
    layers, targets = tuple(range(len(x))), tuple(range(len(y)))
    return LayerMoments(layers, targets, (PairMoments().update(x, y),))


def _doubling_sizes(labels: Int[Tensor, " n"]) -> list[int]:
    """Sizes from two examples per class, doubled up to all."""
    sizes, size = [], max(2, 2 * len(labels.unique()))
    while size < len(labels):
        sizes.append(size)
        size *= 2
    return [*sizes, len(labels)]


def _describe(pair: ModelPair, datasets: Sequence[LabelledDataset], matrix: TaskMatrix) -> dict:
    distance = weight_distance(pair.base, pair.tuned)
    is_square = matrix.d_base == matrix.d_tuned
    return {
        "versions": provenance(pair.base)["versions"],
        "kind": datasets[0].kind,
        "classes": len(datasets[0].classes),
        "train": len(datasets[0]),
        "validation": len(datasets[1]),
        "test": len(datasets[2]),
        "readout": pair.readout,
        "head": "classifier" if pair.head else "ridge probe on the finetuned states",
        "weight_distance": distance.norm,
        "relative_weight_distance": distance.relative,
        "distance_from_identity": distance_from_identity(matrix) if is_square else None,
    }
