"""One matrix for several tasks, on planted maps."""

import itertools

import numpy as np
import pytest
import torch
from helpers import normal

from tvlens import PairMoments, TvlensError
from tvlens.matrices import (
    Examples,
    SharingReport,
    SharingTask,
    TaskMatrix,
    evaluate_sharing,
    fit_shared_matrices,
)
from tvlens.matrices.examples import predict_classes
from tvlens.results import split_tensors
from tvlens.saved import write_tensors


def make_task(seed, weight, width=6, layers=2, n=90):
    """Make a task whose finetuned states are the last layer times `weight`, with random classes."""
    rng = np.random.default_rng(seed)
    head = torch.tensor(rng.standard_normal((width, 3)))

    def classify(states):
        return states @ head.to(states)

    parts = []
    for size in (200, 80, n):
        x = torch.tensor(rng.standard_normal((layers, size, width)))
        tuned = x[-1] @ weight
        parts.append(Examples(x, tuned, classify(tuned).argmax(1)))
    train, validation, test = parts
    return SharingTask(PairMoments().update(train.base, train.tuned), validation, test, classify)


def sample_weights(count, seed=0, width=6):
    rng = np.random.default_rng([seed, 1])
    return [torch.tensor(rng.standard_normal((width, width))) for _ in range(count)]


@pytest.fixture(scope="module")
def tasks():
    """Two tasks of one map and a third of another."""
    one, other = sample_weights(2)
    return {"a": make_task(0, one), "b": make_task(1, one), "c": make_task(2, other)}


def test_shared_matrix_costs_nothing_for_tasks_of_one_map_only(tasks):
    report = evaluate_sharing(tasks)
    assert report.layer[:3].tolist() == [1, 1, 1]
    assert report.accuracy[:3].diagonal().tolist() == pytest.approx([1, 1, 1])
    assert report.best() == ("a", "b")
    same, whole = report.index("a", "b"), report.index("a", "b", "c")
    assert report.difference[same, :2, 0].tolist() == [0, 0]
    assert (report.difference[whole, :, 2] < 0).all()  # the other map costs every task
    # A task's own matrix already decides for a task of the same map, whose data it has not seen.
    assert (
        report.accuracy[report.index("a"), 1] == 1 and report.accuracy[report.index("a"), 2] < 0.8
    )
    differences = report.pair_differences()
    assert differences.diagonal().abs().max() == 0 and differences[0, 1] == 0 > differences[0, 2]


def test_evaluate_sharing_equals_direct_computation(tasks):
    report = evaluate_sharing(tasks, seed=3)
    frame = report.to_dataframe()
    assert len(frame) == 7 * 3 and frame.notna().all().all()

    def accuracies(inside, part, layer, ridge):
        """Accuracies of a matrix fitted to the concatenated training states of a subset."""
        pairs = zip(tasks.values(), inside, strict=True)
        moments = [task.moments.pair(layer) for task, is_inside in pairs if is_inside]
        matrix = TaskMatrix.from_moments(moments, ridge=ridge)
        scores = []
        for task in tasks.values():
            examples = getattr(task, part).at_layer(layer)
            classes = predict_classes(task.head, matrix.predict(examples.x), task.test.tuned)
            scores.append(float((classes == examples.labels).double().mean()))
        return scores

    for i, inside in enumerate(report.subsets):
        layer, ridge = int(report.layer[i]), float(report.ridge[i])
        assert report.accuracy[i].tolist() == pytest.approx(
            accuracies(inside, "test", layer, ridge)
        )
        accuracy = accuracies(inside, "validation", layer, ridge)
        assert report.validation[i].tolist() == pytest.approx(accuracy)
        mean = float(report.validation[i][inside].mean())
        for other in (0, 1):  # nothing that was offered is better on the subset's own tasks
            for penalty in (ridge / 100, ridge, 100 * ridge):
                offered = torch.tensor(accuracies(inside, "validation", other, penalty))[
                    inside
                ].mean()
                assert float(offered) <= mean + 0.02
        for j in range(3):
            low, high = report.interval[i, j]
            assert low <= report.accuracy[i, j] <= high
            difference, below, above = report.difference[i, j].tolist()
            assert difference == pytest.approx(float(report.accuracy[i, j] - report.accuracy[j, j]))
            assert below <= difference <= above


def test_evaluate_sharing_of_many_tasks_fits_pairs_and_all(tmp_path):
    members = {f"task {i}": make_task(i, w, n=40) for i, w in enumerate(sample_weights(6))}
    report = evaluate_sharing(members)
    assert report.subsets.sum(1).tolist() == [1] * 6 + [2] * 15 + [6]
    with pytest.raises(TvlensError, match="only pairs and the whole"):
        report.index("task 0", "task 1", "task 2")
    with pytest.raises(TvlensError, match="unknown size of a subset '3'"):
        report.best(3)
    three = evaluate_sharing(members, sizes=(3,))
    assert len(three.best(3)) == 3 and len(three.subsets) == 6 + 20 + 1
    report.save(tmp_path / "shared.safetensors")
    loaded = SharingReport.load(tmp_path / "shared.safetensors")
    assert loaded.to_dataframe().equals(report.to_dataframe()) and loaded.best() == report.best()
    assert "one matrix for 6 tasks" in report._repr_html_()
    tensors, plain = split_tensors(report)
    del tensors["difference"]
    old = tmp_path / "old.safetensors"
    write_tensors(old, tensors, kind="tvlens.SharingReport", metadata=plain)
    with pytest.raises(TvlensError, match=r"'difference' is missing.*tvlens 0.1 wrote it"):
        SharingReport.load(old)


def test_bad_input_raises_one_line_errors(tasks):
    with pytest.raises(TvlensError, match="at least 2 tasks, not 1"):
        evaluate_sharing({"a": tasks["a"]})
    with pytest.raises(TvlensError, match="d has states of other base layers than a"):
        evaluate_sharing(tasks | {"d": make_task(9, sample_weights(1)[0], layers=3)})
    with pytest.raises(TvlensError, match="unknown size of a subset '4'"):
        evaluate_sharing(tasks, sizes=(4,))
    with pytest.raises(TvlensError, match="unknown task 'd'"):
        evaluate_sharing(tasks).index("d")


def sample_pairs(n=80, d=7, t=5, rank=None, seed=0, task=1):
    x = normal(n, d, seed=seed) @ normal(d, d, seed=7) + 2
    w = normal(d, t, seed=task) if rank is None else normal(d, rank) @ normal(rank, t)
    return x, x @ w + 1 + 0.5 * normal(n, t, seed=seed + 100)


def test_shared_matrix_matches_fit_to_concatenated_tasks():
    data = {f"task {k}": sample_pairs(30 + k, seed=k, task=k) for k in range(4)}
    moments = {name: PairMoments().update(*xy) for name, xy in data.items()}
    matrices = dict(fit_shared_matrices(moments, ridge=2.0))
    subsets = [s for k in range(1, 5) for s in itertools.combinations(data, k)]
    assert list(matrices) == subsets and len(subsets) == 15
    for names in subsets:
        x, y = (torch.cat([data[name][side] for name in names]) for side in (0, 1))
        direct = TaskMatrix.from_states(x, y, ridge=2.0)
        torch.testing.assert_close(matrices[names].weight, direct.weight)
        torch.testing.assert_close(matrices[names].bias, direct.bias)
        listed = TaskMatrix.from_moments([moments[n] for n in names], ridge=2.0)
        torch.testing.assert_close(listed.weight, direct.weight)
    assert [names for names, _ in fit_shared_matrices(moments, sizes=4)] == [tuple(data)]
    with pytest.raises(TvlensError, match="unknown size of a subset '5'"):
        list(fit_shared_matrices(moments, sizes=5))
