import pytest
import torch
from planted import PlantedModel, untrained_model

from tvlens import Subspace, TvlensError, bayes
from tvlens.bayes.checks.dissociation_check import DECISIVE
from tvlens.bayes.checks.probing import task_span

SIZES = dict(pairs=96, null=5)


@pytest.fixture(scope="module")
def distinct_dice():
    p = [[0.85, 0.05, 0.05, 0.05], [0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.45, 0.45]]
    return bayes.Dice.from_probabilities(p)


def planted_parts(model):
    learner = Subspace.span(torch.cat([model.learner, model.new]))
    return dict(span=Subspace.span(model.task), learner=learner)


def test_planted_axes_are_doubly_dissociated(distinct_dice):
    model = PlantedModel(distinct_dice, minor_mass=0.1)
    result = bayes.dissociation(model, distinct_dice, **planted_parts(model), **SIZES)
    share = result.share
    assert share["task span", "known"] > 0.9 and share["task span", "new"] < 0.25
    assert share["learner subspace", "known"] < 0.1 and share["learner subspace", "new"] > 0.75
    for kind in ("known", "new"):
        assert share["whole state", kind] == pytest.approx(1, abs=0.05)
        both = share["task span", kind] + share["learner subspace", kind]
        assert both == pytest.approx(1, abs=0.1)
    # A new task's part alone does not replace a known one: its weight is that of retrieval.
    assert share["whole state", "new into known"] > 0.9 > share["task span", "new into known"]
    assert result.holds() and result.holds("orthogonal part")
    value, low, high = result.contrasts["learner subspace", "interaction"]
    assert 1 < low < value < high < 2
    assert result.null.abs().max() < 0.01
    assert result.p_value["learner subspace", "new"] == pytest.approx(1 / 6)


def test_a_model_without_a_learner_part_misses(distinct_dice):
    model = PlantedModel(distinct_dice)
    result = bayes.dissociation(model, distinct_dice, **planted_parts(model), **SIZES)
    assert result.share["task span", "known"] > 0.95
    assert abs(result.share["learner subspace", "new"]) < 0.01
    assert not result.holds() and not result.holds("orthogonal part")
    assert result.contrasts["learner subspace", "new tasks"][2] < 0


def test_contrasts_change_their_sign_when_the_parts_are_swapped(distinct_dice):
    model = PlantedModel(distinct_dice, minor_mass=0.1)
    parts = planted_parts(model)
    swapped = dict(span=parts["learner"], learner=parts["span"])
    result = bayes.dissociation(model, distinct_dice, **swapped, **SIZES)
    assert all(result.contrasts["learner subspace", name][2] < 0 for name in DECISIVE)


@pytest.mark.parametrize("name", ["Markov", "LinearRegression"])
def test_dissociation_of_every_family_is_saved_and_plotted(name, tmp_path):
    family = getattr(bayes, name)(seed=3)
    model = untrained_model(family)
    effects = bayes.task_effects(model, family, layer=0)
    options = dict(layer=0, effects=effects, by_token=True)
    span = task_span(model, family, **options)
    assert span.rank > Subspace.span(effects.task).rank
    learner = Subspace(span.complement().basis[:, :3])
    options |= dict(learner=learner, pairs=8, null=2)
    result = bayes.dissociation(model, family, **options)
    assert len(result.to_dataframe()) == 16 and "<figure" in result._repr_html_()
    # Fewer pairs than dimensions may leave less variance outside both parts.
    assert (result.null_variance <= 1.01 * result.variance[:2, :, None]).all()
    result.save(tmp_path / "result.safetensors")
    loaded = bayes.Dissociation.load(tmp_path / "result.safetensors")
    assert torch.equal(loaded.movement, result.movement) and loaded.contrasts == result.contrasts


def test_exchanging_orthogonal_parts_adds_up_after_a_linear_readout():
    family = bayes.LinearRegression(seed=3)
    model = untrained_model(family)
    span = Subspace.span(bayes.task_effects(model, family).task)
    learner = Subspace(span.complement().basis[:, :2])
    result = bayes.dissociation(model, family, span=span, learner=learner, **SIZES)
    both = result.movement[0] + result.movement[2]
    torch.testing.assert_close(both, result.movement[3], rtol=1e-3, atol=1e-5)


def test_invalid_input_is_refused_in_one_line(distinct_dice):
    model = untrained_model(distinct_dice)
    with pytest.raises(TvlensError, match="not orthogonal to the task span: a share of 1 "):
        span = Subspace.random(32, 2, seed=0)
        bayes.dissociation(model, distinct_dice, span=span, learner=span)
    with pytest.raises(TvlensError, match="one major task"):
        bayes.dissociation(model, bayes.Dice(tasks=1, faces=4))
    with pytest.raises(TvlensError, match="layer 7 does not exist"):
        bayes.dissociation(model, distinct_dice, layer=7)
    with pytest.raises(TvlensError, match="vocabulary"):
        bayes.dissociation(model, bayes.Dice())
