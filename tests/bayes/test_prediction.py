"""Predictions as results: tables, pictures, files."""

import pytest
import torch

import tvlens as tv
from tvlens import TvlensError

bayes = tv.bayes
FAMILIES = ["Dice", "Markov", "LinearRegression", "Dyck"]


@pytest.fixture(params=FAMILIES)
def case(request):
    family = getattr(bayes, request.param)(minor=6, minor_mass=0.3)
    return family, family.sample(4, 9, seed=1)


def test_tables(case):
    family, data = case
    found = bayes.retrieval(family, data)
    table = found.to_dataframe()
    assert len(table) == 36 and list(table.columns[:2]) == ["sequence", "position"]
    shares = table[["task 0", "task 1", "task 2", "minor tasks"]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0] * 36)
    row = table.query("sequence == 2 and position == 5").iloc[0]
    assert row["task 1"] == float(found.posterior[2, 5, 1])
    assert row["log_evidence"] == float(found.log_evidence[2, 5])
    if isinstance(found.predictive, bayes.Moments):
        assert row["mean"] == float(found.predictive.mean[2, 5])
        assert table["variance"].isna().sum() == 4  # the last pairs have no next input
    else:
        assert row["p(1)"] == float(found.predictive[2, 5, 1])


def test_files(case, tmp_path):
    family, data = case
    found = bayes.extrapolation(family, data)
    found.save(tmp_path / "found.safetensors")
    again = bayes.Prediction.load(tmp_path / "found.safetensors")
    assert (again.majors, again.rest_label, again.reference) == (3, "new task", "extrapolation")
    assert torch.equal(again.posterior, found.posterior)
    assert torch.equal(again.log_evidence, found.log_evidence)
    if isinstance(found.predictive, bayes.Moments):
        assert torch.equal(again.predictive.variance, found.predictive.variance)
    else:
        assert torch.equal(again.predictive, found.predictive)
    (tmp_path / "other").write_text("no")
    with pytest.raises(TvlensError, match="holds no Prediction"):
        bayes.Prediction.load(tmp_path / "other")


def test_pictures_show_every_group_of_tasks(case):
    family, data = case
    for reference, last in (("retrieval", "minor tasks"), ("extrapolation", "new task")):
        found = getattr(bayes, reference)(family, data)
        html = found._repr_html_()
        assert all(
            label in html for label in ("task 0", "task 2", last, f"{reference}: sequence 0")
        )
    assert "new task" in bayes.learner(family, data)._repr_html_()
    with pytest.raises(TvlensError, match="no sequence 4 among 4"):
        found.figure(4)


def test_streams_are_the_same_for_every_family(case):
    family, data = case
    for reference in (bayes.retrieval, bayes.extrapolation, bayes.learner):
        whole, part = (
            reference(family, data).group_rest(),
            bayes.predict_in_batches(reference, family, data, batch_size=3),
        )
        torch.testing.assert_close(part.posterior, whole.posterior)
        torch.testing.assert_close(part.log_evidence, whole.log_evidence)
        assert (part.reference, part.labels) == (whole.reference, whole.labels)


def test_entropy_says_how_unsure():
    family = bayes.Dice.from_probabilities([[0.5, 0.5], [0.5, 0.5]])
    found = bayes.retrieval(family, torch.tensor([[0, 1, 1]]))
    torch.testing.assert_close(found.entropy, torch.full((1, 3), 2.0).double().log())


def test_blend_of_moments_is_that_of_two_normals():
    """Against draws from the mixture."""
    one = bayes.Moments(torch.zeros(1, 2, 1), torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    two = bayes.Moments(torch.ones(1, 2, 1), torch.tensor([[-2.0]]), torch.tensor([[2.0]]))
    found = bayes.blend(one, two, torch.tensor([[0.3, 0.6]]))
    draws = torch.Generator().manual_seed(0)
    second = torch.rand(400_000, generator=draws) < 0.3
    normal = torch.randn(400_000, generator=draws)
    y = torch.where(second, -2 + 2**0.5 * normal, 1 + 0.5**0.5 * normal)
    assert float(found.mean) == pytest.approx(float(y.mean()), abs=0.01)
    assert float(found.variance) == pytest.approx(float(y.var()), abs=0.03)
    torch.testing.assert_close(found.weights[0, :, 0], torch.tensor([0.3, 0.6]))
