"""Typical user code, which `make lint` checks with mypy and which is not run.

What each call gives is asserted. A line with an expected error is a mistake that a type checker
must see: an ignored error that does not occur is itself an error.
"""

from typing import Any, assert_type

import numpy as np
from torch import Tensor

import tvlens as tv


def vectors() -> None:
    model = tv.load("smollm2-135m")
    assert_type(model, Any)  # TransformerLens's own model, with all its methods
    task = tv.Task.load("singular-plural")
    assert_type(task, tv.Task)
    train, validation, test = task.split(seed=0)
    assert_type(test, tv.Task)

    vector = tv.extract(model, train, method="state", shots=6, contexts=20, seed=0)
    assert_type(vector, tv.TaskVector)
    assert_type(vector.values, Tensor)
    assert_type(vector * 2 + vector, tv.TaskVector)
    report = tv.evaluate(model, vector, validation=validation, test=test, mode="add")
    assert_type(report, tv.vectors.VectorReport)
    assert_type(report.accuracy, float)
    assert_type(report.layer, int)
    with vector.applied(model, layer=report.layer, mode="replace"):
        pass
    vector.save("plural.safetensors")
    assert_type(tv.TaskVector.load("plural.safetensors"), tv.TaskVector)
    assert_type(tv.vectors.phases(model, [], [{}]), tv.vectors.Phases)


def patching() -> None:
    model = tv.load("smollm2-135m")
    metric = tv.logit_difference(1, 2)
    result = tv.patch(model, ["a"], ["b"], site="head_out", metric=metric, positions=-1)
    assert_type(result, tv.PatchResult)
    assert_type(result.values, Tensor)
    assert_type(result.effect, Tensor)
    tv.patch(model, "a", "b", site="resid_post", metric=metric, layers="all", positions="auto")
    tv.patch(model, "a", "b", site="blocks.5.hook_resid_pre", metric={"own": metric})
    tv.patch(model, "a", "b", site="z", metric=metric, layers=[np.int64(3)], heads=range(4))
    assert_type(tv.attribute(model, "a", "b", site="z", metric=metric), tv.PatchResult)
    receiver = tv.Site("q", 5, head=1)
    assert_type(tv.patch_paths(model, "a", "b", receiver=receiver, metric=metric), tv.PatchResult)
    states = tv.collect(model, ["a"], "resid_post", layers=[3, -1])
    assert_type(states, tv.activations.Activations)
    assert_type(states["blocks.3.hook_resid_post"], Tensor)
    result.figure().save("effects.html")


def geometry(points: Tensor) -> None:
    subspace = tv.Subspace.span(points)
    assert_type(subspace, tv.Subspace)
    assert_type(subspace.angles(subspace), Tensor)
    assert_type(subspace.orthogonality(subspace, null=100).p_value, float)
    assert_type(tv.simplex_weights(points, points), Tensor)
    table = tv.geometry.similarity_table({"a": points, "b": points})
    assert_type(table, tv.geometry.SimilarityTable)


def bayes(model: Any) -> None:
    family = tv.bayes.Dice(tasks=3, faces=6, minor=512, minor_mass=0.1, seed=0)
    assert_type(family.probabilities, Tensor)
    tokens = family.sample(4, 16, split="ood").tokens
    assert_type(tv.bayes.LinearRegression(tasks=2, dim=3).sample(4, 16).targets, Tensor)
    assert_type(tv.bayes.retrieval(family, tokens), tv.bayes.Prediction)
    assert_type(tv.bayes.behaviour(model, family, splits=["major"]), tv.bayes.Behaviour)
    assert_type(
        tv.training.TransformerConfig(context=64, vocab=6, positions="learned"),
        tv.training.TransformerConfig,
    )


def matrices(base: Any, tuned: Any, x: Tensor, y: Tensor) -> None:
    matrix = tv.TaskMatrix.from_states(x, y, ridge="loo")
    assert_type(matrix, tv.TaskMatrix)
    moments = tv.PairMoments().update(x, y)
    assert_type(tv.TaskMatrix.from_moments(moments, ridge=0.1, method="ridge"), tv.TaskMatrix)
    assert_type(tv.TaskMatrix.fit(base, tuned, [["a"]], layers=3), tv.matrices.TaskMatrices)
    assert_type(tv.matrices.collect_states(base, [["a"]], layers=-1, readout="mean"), Tensor)
    assert_type(tv.finetune("minilm-l6", *parts(), folder="out"), tv.training.FinetunedEncoder)
    assert_type(tv.stats.bootstrap_interval(np.zeros(3)), tuple[float, float])


def parts() -> tuple[tv.LabelledDataset, tv.LabelledDataset]:
    train, validation, _ = tv.LabelledDataset.load("emoji-words").split(seed=0)
    return train, validation


def mistakes(model: Any, task: tv.Task, vector: tv.TaskVector, x: Tensor) -> None:
    tv.extrakt(model, task)  # type: ignore[attr-defined]
    tv.vectors.nothing  # type: ignore[attr-defined]  # noqa: B018
    tv.extract(model, "singular-plural")  # type: ignore[arg-type]
    tv.extract(model, task, method="stat")  # type: ignore[arg-type]
    tv.extract(model, task, shot=6)  # type: ignore[call-arg]
    tv.evaluate(model, vector, validation=task)  # type: ignore[call-arg]
    tv.evaluate(model, vector, validation=task, test=task, mode="ad")  # type: ignore[arg-type]
    vector.accuracy  # type: ignore[attr-defined]  # noqa: B018
    vector.applied(model, layer="20")  # type: ignore[arg-type]
    vector.hook(model, 20, mode="rotate")  # type: ignore[arg-type]
    metric = tv.logit_difference(1, 2)
    tv.patch(model, "a", "b", site="z")  # type: ignore[call-arg]
    tv.patch(model, "a", "b", site="z", metric=metric, layers="every")  # type: ignore[arg-type]
    tv.patch(model, "a", "b", site="z", metric=metric, positions="last")  # type: ignore[arg-type]
    tv.patch(model, "a", "b", site="z", metric="logits")  # type: ignore[arg-type]
    tv.patch_paths(model, "a", "b", receiver="q", metric=metric)  # type: ignore[arg-type]
    tv.collect(model, ["a"], layers="first")  # type: ignore[arg-type]
    tv.bayes.Dice(tasks=3, faces=6).sample(4, 16, split="test")  # type: ignore[arg-type]
    tv.training.TransformerConfig(context=64, vocab=6, norm="batch")  # type: ignore[arg-type]
    tv.TaskMatrix.from_states(x, x, ridge="cv")  # type: ignore[arg-type]
    tv.matrices.collect_states(model, [["a"]], readout="median")  # type: ignore[arg-type]
    task.split(seed=0) + 1  # type: ignore[operator]
