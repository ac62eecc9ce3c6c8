"""`Prediction`: tables, figures, files."""

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


def test_to_dataframe_has_one_row_per_position(case):
    family, data = case
    prediction = bayes.retrieval(family, data)
    table = prediction.to_dataframe()
    assert len(table) == 36 and list(table.columns[:2]) == ["sequence", "position"]
    shares = table[["task 0", "task 1", "task 2", "minor tasks"]]
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0] * 36)
    row = table.query("sequence == 2 and position == 5").iloc[0]
    assert row["task 1"] == float(prediction.posterior[2, 5, 1])
    assert row["log_evidence"] == float(prediction.log_evidence[2, 5])
    if isinstance(prediction.predictive, bayes.Moments):
        assert row["mean"] == float(prediction.predictive.mean[2, 5])
        assert table["variance"].isna().sum() == 4  # the last pairs have no next input
    else:
        assert row["p(1)"] == float(prediction.predictive[2, 5, 1])


def test_predictions_are_saved_and_loaded(case, tmp_path):
    family, data = case
    prediction = bayes.extrapolation(family, data)
    prediction.save(tmp_path / "found.safetensors")
    loaded = bayes.Prediction.load(tmp_path / "found.safetensors")
    assert (loaded.majors, loaded.rest_label, loaded.reference) == (3, "new task", "extrapolation")
    assert torch.equal(loaded.posterior, prediction.posterior)
    assert torch.equal(loaded.log_evidence, prediction.log_evidence)
    if isinstance(prediction.predictive, bayes.Moments):
        assert torch.equal(loaded.predictive.variance, prediction.predictive.variance)
    else:
        assert torch.equal(loaded.predictive, prediction.predictive)
    (tmp_path / "other").write_text("no")
    with pytest.raises(TvlensError, match="holds no Prediction"):
        bayes.Prediction.load(tmp_path / "other")


def test_figure_labels_every_group_of_tasks(case):
    family, data = case
    for reference, last in (("retrieval", "minor tasks"), ("extrapolation", "new task")):
        prediction = getattr(bayes, reference)(family, data)
        html = prediction._repr_html_()
        assert all(
            label in html for label in ("task 0", "task 2", last, f"{reference}: sequence 0")
        )
    assert "new task" in bayes.learner(family, data)._repr_html_()
    with pytest.raises(TvlensError, match="no sequence 4 among 4"):
        prediction.figure(4)


def test_predict_in_batches_equals_one_batch(case):
    family, data = case
    for reference in (bayes.retrieval, bayes.extrapolation, bayes.learner):
        whole, batched = (
            reference(family, data).group_rest(),
            bayes.predict_in_batches(reference, family, data, batch_size=3),
        )
        torch.testing.assert_close(batched.posterior, whole.posterior)
        torch.testing.assert_close(batched.log_evidence, whole.log_evidence)
        assert (batched.reference, batched.labels) == (whole.reference, whole.labels)


def test_entropy_of_two_equal_tasks_is_log_two():
    family = bayes.Dice.from_probabilities([[0.5, 0.5], [0.5, 0.5]])
    prediction = bayes.retrieval(family, torch.tensor([[0, 1, 1]]))
    torch.testing.assert_close(prediction.entropy, torch.full((1, 3), 2.0).double().log())


def test_blend_of_moments_equals_a_mixture_of_two_normals():
    """The reference is a sample from the mixture."""
    one = bayes.Moments(torch.zeros(1, 2, 1), torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    two = bayes.Moments(torch.ones(1, 2, 1), torch.tensor([[-2.0]]), torch.tensor([[2.0]]))
    blend = bayes.blend(one, two, torch.tensor([[0.3, 0.6]]))
    generator = torch.Generator().manual_seed(0)
    second = torch.rand(400_000, generator=generator) < 0.3
    normal = torch.randn(400_000, generator=generator)
    y = torch.where(second, -2 + 2**0.5 * normal, 1 + 0.5**0.5 * normal)
    assert float(blend.mean) == pytest.approx(float(y.mean()), abs=0.01)
    assert float(blend.variance) == pytest.approx(float(y.var()), abs=0.03)
    torch.testing.assert_close(blend.weights[0, :, 0], torch.tensor([0.3, 0.6]))
