import numpy as np
import pytest
import scipy.spatial
import torch
from helpers import normal
from sklearn.metrics.pairwise import cosine_similarity

from tvlens import TvlensError
from tvlens.geometry import (
    SimilarityTable,
    cka,
    cosine,
    cosine_table,
    debiased_cka,
    procrustes,
    similarity_table,
)


def transform_similarly(x):
    """Translate, scale and rotate points into more dimensions."""
    wide = torch.cat([x, torch.zeros(len(x), 2)], 1)
    turn = torch.linalg.qr(normal(wide.shape[1], wide.shape[1], seed=9)).Q
    return 4 * wide @ turn + 7


def test_cosine_equals_scikit_learn():
    x = normal(6, 4)
    np.testing.assert_allclose(cosine_table(x), cosine_similarity(x.numpy()), atol=1e-12)
    assert cosine(x, x) == pytest.approx(1) and cosine(x, -2 * x) == pytest.approx(-1)
    wanted = np.diag(cosine_similarity(x.numpy(), normal(6, 4, seed=1).numpy())).mean()
    assert cosine(x, normal(6, 4, seed=1)) == pytest.approx(wanted)
    with pytest.raises(TvlensError, match="row 2 of vectors is zero"):
        cosine_table(x * (torch.arange(6) != 2)[:, None])


@pytest.mark.parametrize(("n", "d", "e"), [(30, 4, 7), (8, 20, 5), (8, 20, 30)])
def test_cka_equals_its_formula(n, d, e):
    x, y = normal(n, d).numpy(), normal(n, e, seed=1).numpy()
    y[:, 0] += x[:, 0]
    centre = np.eye(n) - 1 / n

    def hsic(a, b):
        return np.trace(a @ a.T @ centre @ b @ b.T @ centre)

    wanted = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(wanted)


def test_debiased_cka_equals_its_definition():
    """The unbiased HSIC as a sum over all quadruples of different rows (Song et al. 2012)."""
    import itertools

    n = 7
    x, y = normal(n, 3), normal(n, 2, seed=1) + normal(n, 3)[:, :2]

    def hsic(a, b):
        k, l = (a @ a.T).numpy(), (b @ b.T).numpy()
        terms = [
            k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
            for i, j, q, r in itertools.permutations(range(n), 4)
        ]
        return np.mean(terms)

    wanted = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert debiased_cka(x, y) == pytest.approx(wanted)


def test_debiased_cka_of_few_independent_rows_is_near_zero():
    pairs = [(normal(20, 200, seed=s), normal(20, 200, seed=s + 100)) for s in range(20)]
    assert np.mean([cka(*p) for p in pairs]) > 0.8
    assert abs(np.mean([debiased_cka(*p) for p in pairs])) < 0.03


@pytest.mark.parametrize("measure", [cka, debiased_cka])
def test_cka_is_invariant_under_similarity_transformations(measure):
    x = normal(30, 5)
    assert measure(x, transform_similarly(x)) == pytest.approx(1)
    assert measure(x, normal(30, 5, seed=3)) == pytest.approx(measure(normal(30, 5, seed=3), x))
    assert measure(x, normal(30, 5, seed=3)) < 0.5


def test_procrustes_equals_scipy():
    x, y = normal(12, 4), normal(12, 4, seed=1)
    wanted = scipy.spatial.procrustes(x.numpy(), y.numpy())[2]
    assert procrustes(x, y) == pytest.approx(wanted)
    padded = torch.cat([y[:, :2], torch.zeros(12, 2)], 1)
    wanted = scipy.spatial.procrustes(x.numpy(), padded.numpy())[2]
    assert procrustes(x, y[:, :2]) == pytest.approx(wanted)
    assert procrustes(x, transform_similarly(x)) == pytest.approx(0, abs=1e-12)


def test_similarity_table_is_symmetric_saved_and_plotted(tmp_path):
    groups = {
        "text": normal(20, 4),
        "image": transform_similarly(normal(20, 4)),
        "other": normal(20, 6),
    }
    table = similarity_table(groups)
    assert table.names == tuple(groups) and table.measure == "cka"
    assert float(table.values[0, 1]) == pytest.approx(1)
    assert float(table.values[0, 2]) == cka(groups["text"], groups["other"])
    assert torch.equal(table.values, table.values.T)
    table.save(tmp_path / "t.safetensors")
    loaded = SimilarityTable.load(tmp_path / "t.safetensors")
    assert loaded.names == table.names and torch.equal(loaded.values, table.values)
    frame = table.to_dataframe()
    assert frame.loc["text", "other"] == float(table.values[0, 2])
    assert "data-tvlens" in table._repr_html_() and "text, image, other" in repr(table)
    distances = similarity_table(groups, measure=procrustes)
    torch.testing.assert_close(distances.values.diagonal(), torch.zeros(3).double())


def test_bad_input_raises_one_line_errors(unchecked):
    x = normal(5, 3)
    for measure in (cosine, cka, debiased_cka, procrustes):
        with pytest.raises(TvlensError, match="x has 5 rows and y has 4"):
            measure(x, x[1:])
        with pytest.raises(TvlensError, match="numbers in y are NaN"):
            measure(x, x * torch.nan)
    for measure in (cka, debiased_cka, procrustes):
        with pytest.raises(TvlensError, match="all 5 rows of y are the same"):
            measure(x, torch.full((5, 2), 0.1))
    with pytest.raises(TvlensError, match="x has width 3 and y has width 2"):
        cosine(x, x[:, 1:])
    with pytest.raises(TvlensError, match="needs at least 4 rows, not 3"):
        debiased_cka(x[:3], x[:3])
    with pytest.raises(TvlensError, match="1 groups"):
        similarity_table({"a": x})
    with pytest.raises(TvlensError, match="'a' and 'b': x has 5 rows"):
        similarity_table({"a": x, "b": x[1:]})
