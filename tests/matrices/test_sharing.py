"""One matrix for several tasks, on planted maps."""

import numpy as np
import pytest
import torch

from tvlens import PairMoments, TvlensError
from tvlens.matrices import Examples, Member, Sharing, TaskMatrix, share
from tvlens.matrices.examples import decide
from tvlens.saved import parted, write_tensors


def member(seed, weight, width=6, layers=2, n=90):
    """A task whose tuned states are the last layer's through `weight`; its own random classes."""
    rng = np.random.default_rng(seed)
    head = torch.tensor(rng.standard_normal((width, 3)))

    def decides(states):
        return states @ head.to(states)

    parts = []
    for size in (200, 80, n):
        x = torch.tensor(rng.standard_normal((layers, size, width)))
        tuned = x[-1] @ weight
        parts.append(Examples(x, tuned, decides(tuned).argmax(1)))
    train, select, test = parts
    return Member(PairMoments().update(train.base, train.tuned), select, test, decides)


def weights(count, seed=0, width=6):
    rng = np.random.default_rng([seed, 1])
    return [torch.tensor(rng.standard_normal((width, width))) for _ in range(count)]


@pytest.fixture(scope="module")
def alike():
    """Two tasks of one map and a third of another."""
    one, other = weights(2)
    return {"a": member(0, one), "b": member(1, one), "c": member(2, other)}


def test_tasks_of_one_map_share_it_for_nothing_and_another_does_not(alike):
    found = share(alike)
    assert found.layer[:3].tolist() == [1, 1, 1]
    assert found.accuracy[:3].diagonal().tolist() == pytest.approx([1, 1, 1])
    assert found.best() == ("a", "b")
    same, whole = found.place("a", "b"), found.place("a", "b", "c")
    assert found.lead[same, :2, 0].tolist() == [0, 0]
    assert (found.lead[whole, :, 2] < 0).all()  # the other map costs every task
    # A task's own matrix already decides for a task of the same map, whose data it has not seen.
    assert found.accuracy[found.place("a"), 1] == 1 and found.accuracy[found.place("a"), 2] < 0.8
    pairs = found.pairs()
    assert pairs.diagonal().abs().max() == 0 and pairs[0, 1] == 0 > pairs[0, 2]


def test_every_number_by_hand(alike):
    found = share(alike, seed=3)
    frame = found.to_dataframe()
    assert len(frame) == 7 * 3 and frame.notna().all().all()

    def accuracies(inside, part, layer, ridge):
        """Of a matrix fitted to the subset's training states side by side."""
        mine = [m.moments.pair(layer) for m, taken in zip(alike.values(), inside, strict=True)
                if taken]  # fmt: skip
        matrix = TaskMatrix.from_moments(mine, ridge=ridge)
        return [
            float((decide(m.head, matrix.predict(getattr(m, part).at(layer).x), m.test.tuned)
                   == getattr(m, part).labels).double().mean())
            for m in alike.values()
        ]  # fmt: skip

    for i, inside in enumerate(found.subsets):
        layer, ridge = int(found.layer[i]), float(found.ridge[i])
        assert found.accuracy[i].tolist() == pytest.approx(accuracies(inside, "test", layer, ridge))
        at_best = accuracies(inside, "select", layer, ridge)
        assert found.validation[i].tolist() == pytest.approx(at_best)
        mean = float(found.validation[i][inside].mean())
        for other in (0, 1):  # nothing that was offered is better on the subset's own tasks
            for penalty in (ridge / 100, ridge, 100 * ridge):
                tried = torch.tensor(accuracies(inside, "select", other, penalty))[inside].mean()
                assert float(tried) <= mean + 0.02
        for j in range(3):
            low, high = found.interval[i, j]
            assert low <= found.accuracy[i, j] <= high
            lead, below, above = found.lead[i, j].tolist()
            assert lead == pytest.approx(float(found.accuracy[i, j] - found.accuracy[j, j]))
            assert below <= lead <= above


def test_pairs_and_the_whole_of_many_tasks(tmp_path):
    members = {f"task {i}": member(i, w, n=40) for i, w in enumerate(weights(6))}
    found = share(members)
    assert found.subsets.sum(1).tolist() == [1] * 6 + [2] * 15 + [6]
    with pytest.raises(TvlensError, match="only pairs and the whole"):
        found.place("task 0", "task 1", "task 2")
    with pytest.raises(TvlensError, match="unknown size of a subset '3'"):
        found.best(3)
    three = share(members, sizes=(3,))
    assert len(three.best(3)) == 3 and len(three.subsets) == 6 + 20 + 1
    found.save(tmp_path / "shared.safetensors")
    again = Sharing.load(tmp_path / "shared.safetensors")
    assert again.to_dataframe().equals(found.to_dataframe()) and again.best() == found.best()
    assert "one matrix for 6 tasks" in found._repr_html_()
    tensors, plain = parted(found)
    del tensors["lead"]
    old = tmp_path / "old.safetensors"
    write_tensors(old, tensors, kind="tvlens.Sharing", about=plain)
    with pytest.raises(TvlensError, match=r"no Sharing \('lead' is missing: .* another"):
        Sharing.load(old)


def test_bad_sharing(alike):
    with pytest.raises(TvlensError, match="at least 2 tasks, not 1"):
        share({"a": alike["a"]})
    with pytest.raises(TvlensError, match="d has states of other base layers than a"):
        share(alike | {"d": member(9, weights(1)[0], layers=3)})
    with pytest.raises(TvlensError, match="unknown size of a subset '4'"):
        share(alike, sizes=(4,))
    with pytest.raises(TvlensError, match="unknown task 'd'"):
        share(alike).place("d")
