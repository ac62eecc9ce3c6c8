"""Checks of models against Bayes, on models whose inner workings are known."""

from dataclasses import fields, replace

import pytest
import torch
from planted import Planted

import tvlens as tv
from tvlens import Subspace, TvlensError
from tvlens.bayes.checks.representation_check import MEASURES
from tvlens.bayes.checks.simplex_projection import project_on_shared_simplex
from tvlens.bayes.checks.subspace_optimization import maximize_over_subspaces
from tvlens.training import Shape, Transformer, loss, to_transformer_lens

bayes = tv.bayes
LOADED = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]]


@pytest.fixture(scope="module")
def dice():
    return bayes.Dice.from_probabilities(LOADED)


@pytest.fixture(scope="module")
def retriever(dice):
    return Planted(dice)


@pytest.fixture(scope="module")
def learner(dice):
    return Planted(dice, minor_mass=0.1)


def small(family, context=17):
    """An untrained model that reads what the family's sequences hold."""
    reads = {"inputs": 6} if isinstance(family, bayes.LinearRegression) else {}
    reads = reads or {"vocab": family.vocabulary}
    shape = Shape(context=context, layers=2, d_model=32, heads=2, **reads)
    return to_transformer_lens(shape, Transformer(shape, seed=1).state_dict())


# --- behaviour


def test_behaviour_finds_the_reference_a_model_is(retriever, learner):
    found = bayes.behaviour(retriever, retriever.family, sequences=64)
    assert found.splits == ("major", "ood")
    assert found.mean["ood", "retrieval"] < 1e-5 < 0.01 < found.mean["ood", "extrapolation"]
    assert found.blend_weight("ood") > 0.9 and found.log_ratio("ood") < -3
    assert (found.relative_distance("ood")[10:] > 0.5).all()
    other = bayes.behaviour(learner, learner.family, sequences=64)
    assert other.mean["ood", "extrapolation"] < 1e-4 < 0.01 < other.mean["ood", "retrieval"]
    assert other.blend_weight("ood") < 0.1 and other.log_ratio("ood") > 3
    low, high = other.interval["ood", "retrieval"]
    assert low < other.mean["ood", "retrieval"] < high


def test_minors_bring_their_references():
    family = bayes.Dice(minor=8, seed=1)
    found = bayes.behaviour(Planted(family, context=12), family, sequences=16)
    assert found.splits == ("major", "minor", "ood")
    assert {"uniform retrieval", "major retrieval", "learner"} <= set(found.references)
    assert found.mean["minor", "major retrieval"] < 1e-5  # it knows the majors alone


def test_regression_predictions_stand_where_training_reads_them():
    family = bayes.LinearRegression(seed=0)
    shape = Shape(context=17, inputs=6, layers=2, d_model=32, heads=2)
    plain = Transformer(shape, seed=1)
    data = family.sample(8, 9, seed=2)
    told = bayes.checks.model_predictions.predict(
        to_transformer_lens(shape, plain.state_dict()), family, data
    )
    assert told.shape == (8, 8)
    with torch.no_grad():
        whole = loss(plain, (data.inputs.float(), data.targets.float())) * 9
        first = loss(plain, (data.inputs[:, :1].float(), data.targets[:, :1].float()))
    cost = (
        bayes.checks.model_predictions.next_observation_cost(family, told, data).mean()
        * 2
        * family.noise**2
    )
    assert float(cost) == pytest.approx(float(whole - first) / 8, rel=1e-4)


def test_an_infinite_divergence_is_an_error():
    family = bayes.Dice.from_probabilities([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    with pytest.raises(TvlensError, match="KL to retrieval is infinite on major"):
        bayes.behaviour(small(family), family, sequences=4, splits=["major"])
    with pytest.raises(TvlensError, match=r"on ood sequences: .* are impossible under every task"):
        bayes.behaviour(small(family), family, sequences=4)


# --- representation


def test_representation_recovers_a_convex_combination(retriever):
    found = bayes.representation(retriever, retriever.family, resamples=50, null=10)
    last = {m: float(found[m][-1]) for m in ("explained share", "total variation", "correlation")}
    assert last["explained share"] > 0.995 and last["correlation"] > 0.995
    assert last["total variation"] < 0.02
    assert found["interaction"][-1] < 0.005 and found["within-cell share"][-1] < 0.02
    assert found["within-cell share"][0] > 0.05  # early, the posterior varies within a task
    assert (found["correlation"] > 0.95).all()  # and the weights follow it all the way
    assert (found.null["total variation"][-1] > 0.4).all()
    assert (found.null["correlation"].abs() < 0.4).all()
    assert (found.null["explained share"] < 0.7).all()
    planted = retriever.task - retriever.task.mean(0)
    assert torch.cosine_similarity(found.task_vectors, planted).min() > 0.999
    for measure in ("explained share", "correlation"):
        assert (found.interval[measure][:, 0] <= found[measure] + 1e-9).all()


class ByToken(Planted):
    """Its task axes change places with the last token, as an answer's do that depends on it."""

    def forward(self, tokens, **_):
        state = self.blocks[0].hook_resid_post(self.state(tokens))
        known = torch.einsum("npd,npkd->npk", state, self.corners(tokens))
        return (known @ self.family.with_major_tasks().parameters.float()).clamp(min=1e-6).log()

    def state(self, tokens):
        known = bayes.retrieval(self.family, tokens).posterior.float()
        points = torch.einsum("npk,npkd->npd", known, self.corners(tokens))
        return points + self.token[tokens]

    def corners(self, tokens):
        k = self.family.majors
        return torch.stack([self.task.roll(one, 0) for one in range(k)])[tokens % k]


def test_task_vectors_of_each_token_need_no_additivity(dice):
    found = bayes.representation(ByToken(dice), dice, observations=[8, 40], resamples=50, null=10)
    assert found["interaction"][-1] > 0.1
    assert found["correlation"][-1] < 0.8 and found["total variation"][-1] > 0.2
    assert (found["correlation by token"] > 0.95).all()
    assert found["total variation by token"][-1] < 0.03
    assert found["explained share by token"][-1] > 0.98
    assert (found.null["total variation by token"][-1] > 0.3).all()
    assert (found.null["explained share by token"][-1] < 0.8).all()


def test_a_state_that_knows_nothing_stays_within_its_null(dice):
    model = Planted(dice, noise=True)
    found = bayes.representation(
        model, dice, observations=[8, 40], per_cell=24, resamples=50, null=40
    )
    for measure in MEASURES[2:]:
        null = found.null[measure][-1]
        away = (float(found[measure][-1]) - float(null.mean())) / float(null.std())
        assert abs(away) < 4, measure
    assert found["within-cell share"][-1] > 0.9


# --- causes


def test_injection_makes_the_model_predict_the_mixture(retriever):
    found = bayes.injection(retriever, retriever.family, sequences=128)
    assert found.mean["injected"] < 0.002 and found.mean["injected by token"] < 0.002
    assert found.mean["unsteered"] > 0.2 and found.mean["random vectors"] > 0.1
    assert found.mean["most likely task"] > 10 * found.mean["injected"]
    # A linear readout of probabilities beats a linear readout of logits.
    assert found.mean["geometric mixture"] > found.mean["injected"]


def test_the_part_in_the_span_of_task_vectors_has_one_direction_fewer():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(40, 16, generator=generator)
    task, token = torch.arange(40) % 5, torch.arange(40) // 5 % 2
    effects = tv.geometry.balanced_effects(h, task, token)
    part = project_on_shared_simplex(h, token, effects).project()
    rest = effects.residual(h, token).double()
    torch.testing.assert_close(part, Subspace.span(effects.task).project(rest), check_dtype=False)
    assert torch.linalg.matrix_rank(part, rtol=1e-4) == 4


def test_a_mixture_is_written_with_task_vectors_of_each_token(dice):
    found = bayes.injection(ByToken(dice), dice, sequences=128)
    assert found.mean["injected by token"] < 0.002
    assert found.mean["injected"] > 0.05 and found.mean["unsteered"] > 0.2


@pytest.mark.parametrize("name", ["Dice", "LinearRegression"])
@pytest.mark.parametrize("layer", [0, 1])
def test_an_edited_output_is_what_the_hooked_model_says(name, layer):
    family = getattr(bayes, name)(seed=3)
    model = small(family)
    gone = Subspace.random(32, 3, seed=1)
    found = bayes.ablation(model, family, subspace=gone, layer=layer, sequences=6, null=2)
    data = family.sample(
        6, bayes.checks.model_predictions.max_length(model, family), split="ood", seed=3
    )
    train = family.sample(6, bayes.checks.model_predictions.max_length(model, family), seed=0)
    mean = bayes.checks.ablation_check.compute_mean_state(model, train, layer=layer).float()

    def cost(hooks):
        told = bayes.checks.model_predictions.predict(model, family, data, hooks=hooks)
        return bayes.checks.model_predictions.next_observation_cost(family, told, data).mean(1)

    risen = cost([gone.hook(model, layer, mean=mean)]) - cost([])
    torch.testing.assert_close(found.cost_increase[1], risen, rtol=1e-4, atol=1e-6)


def test_removing_the_task_span_hurts_known_tasks(retriever):
    found = bayes.ablation(retriever, retriever.family, sequences=64, null=10)
    assert found.rank == 2
    assert found.mean["major"] > 5 * found.null.abs().max()
    assert found.p_value["major"] == pytest.approx(1 / 11)


def test_the_search_finds_what_new_tasks_need(learner):
    effects = bayes.task_effects(learner, learner.family)
    options = dict(rank=1, restarts=3, sequences=48, null=10)
    found = bayes.learner_subspace(learner, learner.family, effects=effects, **options)
    assert found.ratio_to_null > 3
    assert found.mean["ood"] > 10 * found.mean["major"]
    assert found.objective[-1] > found.objective[0]
    assert (found.objective[1:] >= found.objective[:-1]).all()
    # Of the 24 axes of the state, new tasks need 6 at most, and that of their weight above all.
    axes = torch.cat([learner.learner, learner.new, learner.task.sum(0)[None]])
    assert Subspace.span(axes).share(found.basis.T)[0] > 0.8
    assert Subspace.span(learner.new).share(found.basis.T)[0] > 0.6
    assert found.subspace.share(torch.cat([effects.task, effects.token]).double()).max() < 1e-9

    # What another processor rounds in another way does not turn the result.
    generator = torch.Generator().manual_seed(0)
    noise = 1 + 1e-6 * torch.randn(effects.task.shape, generator=generator)
    rounded = replace(effects, task=effects.task * noise)
    again = bayes.learner_subspace(learner, learner.family, effects=rounded, **options)
    assert again.objective[-1] == pytest.approx(float(found.objective[-1]), abs=1e-5)
    assert again.subspace.angles(found.subspace).max() < 1e-3
    torch.testing.assert_close(again.null, found.null, rtol=1e-3, atol=1e-4)


def test_a_search_that_has_not_converged_says_so(learner):
    with pytest.warns(UserWarning, match="has not converged: after 2 steps the gradient is"):
        bayes.learner_subspace(
            learner, learner.family, rank=1, steps=2, restarts=1, sequences=8, null=2
        )


def test_the_highest_of_several_maxima_is_taken():
    """The sum of a quadratic form's values is highest on its first eigenvectors."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(square + square.T)
    starts = torch.randn(3, 12, 2, generator=generator, dtype=torch.float64)

    def trace(basis):
        return torch.trace(basis.T @ (square + square.T) @ basis)

    options = dict(steps=500, tolerance=1e-7)
    found = maximize_over_subspaces(trace, starts, **options)
    assert found.value == pytest.approx(float(values[-2:].sum()), abs=1e-9)
    torch.testing.assert_close(found.maxima, found.maxima[:1].expand(3))
    top = vectors[:, -2:]
    torch.testing.assert_close(found.basis @ found.basis.T, top @ top.T, rtol=0, atol=1e-6)

    def two_hills(basis):  # of heights 2 and 3, on the axes 0 and 1; the valley is between them
        return 2 * basis[0, 0] ** 4 + 3 * basis[1, 0] ** 4

    starts = torch.eye(12, dtype=torch.float64)[:, :2].T[..., None] + 0.1
    found = maximize_over_subspaces(two_hills, starts, **options)
    assert found.maxima.tolist() == pytest.approx([2, 3], abs=1e-9)
    assert float(found.basis[1, 0].abs()) == pytest.approx(1, abs=1e-6)


def test_the_learners_axes_are_explained_by_counts(learner, retriever):
    axes = Subspace.span(learner.learner - learner.learner.mean(0))
    options = dict(sequences=120, null=3, observations=(24, 48))
    found = bayes.statistics_regression(learner, learner.family, axes, **options)
    assert (found.r_squared > 0.97).all() and (found.null < 0.1).all()
    noise = Planted(learner.family, noise=True)
    assert (
        bayes.statistics_regression(noise, learner.family, axes, **options).r_squared < 0.1
    ).all()
    with pytest.raises(TvlensError, match="10 sequences in 5 folds cannot fit 9 features"):
        bayes.statistics_regression(learner, learner.family, axes, sequences=10)
    for seen in (0, 1000):
        with pytest.raises(TvlensError, match=f"between 1 and 48, not {seen}"):
            bayes.statistics_regression(learner, learner.family, axes, observations=(seen,))


def test_newcomers_lie_in_the_span_of_a_retriever_only(retriever, learner):
    options = dict(tasks=24, sequences=12, null=50)
    inside = bayes.novel_tasks(retriever, retriever.family, **options)
    assert inside.share > 0.99 and inside.null == pytest.approx(2 / 24)
    assert inside.angles.max() < 0.1
    outside = bayes.novel_tasks(learner, learner.family, **options)
    assert outside.share < 0.5
    low, high = outside.interval
    assert low < outside.share < high


# --- any family, files, mistakes

CHECKS = {
    "behaviour": dict(sequences=40, splits=["major"]),
    "representation": dict(observations=[6, 8], per_cell=4, resamples=10, null=3),
    "injection": dict(sequences=16),
    "ablation": dict(sequences=8, null=2, splits=["major"]),
    "novel_tasks": dict(tasks=6, sequences=8, null=10),
}


@pytest.mark.parametrize("name", ["Markov", "LinearRegression", "Dyck"])
@pytest.mark.parametrize("check", CHECKS)
def test_every_check_runs_on_every_family_and_is_kept(name, check, tmp_path):
    family = getattr(bayes, name)(seed=3)
    if name == "Dyck" and check in ("behaviour", "injection"):
        with pytest.raises(TvlensError, match="that the model allows"):
            getattr(bayes, check)(small(family), family, **CHECKS[check])
        return
    found = getattr(bayes, check)(small(family), family, **CHECKS[check])
    assert len(found.to_dataframe()) and "<figure" in found._repr_html_()
    found.save(tmp_path / "found.safetensors")
    again = type(found).load(tmp_path / "found.safetensors")
    for field in fields(found):
        value = getattr(found, field.name)
        same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert same(getattr(again, field.name), value), field.name


def test_the_learners_directions_are_kept_and_shown(tmp_path):
    family = bayes.Markov(states=4, minor=5, seed=3)
    model = small(family)
    for layer in (0, 1):
        found = bayes.learner_subspace(model, family, layer=layer, rank=2, sequences=12, null=2)
        assert found.splits == ("major", "minor", "ood") and found.layer == layer
    found.save(tmp_path / "found.safetensors")
    again = bayes.LearnerSubspace.load(tmp_path / "found.safetensors")
    assert torch.equal(again.basis, found.basis) and again.ratio_to_null == found.ratio_to_null
    assert "<figure" in found._repr_html_()
    shown = bayes.statistics_regression(model, family, found.subspace, sequences=60, null=2)
    assert "<figure" in shown._repr_html_() and len(shown.to_dataframe()) == 3


@pytest.mark.parametrize("check", [*CHECKS, "learner_subspace"])
def test_mistakes_are_named(check, dice):
    ask = getattr(bayes, check)
    with pytest.raises(TvlensError, match=r"vocabulary of 4 tokens and .* of 6"):
        ask(small(dice), bayes.Dice())
    with pytest.raises(TvlensError, match="needs vectors of width 7"):
        ask(small(dice), bayes.LinearRegression())
    if check != "behaviour":
        with pytest.raises(TvlensError, match="one major task"):
            ask(small(dice), bayes.Dice(tasks=1, faces=4))
        with pytest.raises(TvlensError, match="layer 7 does not exist"):
            ask(small(dice), dice, layer=7)


def test_more_mistakes(dice):
    model = small(dice)
    with pytest.raises(TvlensError, match=r"fill 40 positions; .* context of 17"):
        bayes.behaviour(model, dice, length=40)
    with pytest.raises(TvlensError, match="fill 40 positions"):
        bayes.injection(model, dice, observations=40)
    with pytest.raises(TvlensError, match="30 directions do not fit into the 27"):
        bayes.learner_subspace(model, dice, rank=30)
    with pytest.raises(TvlensError, match="unknown measure 'P9'"):
        bayes.representation(model, dice, observations=[4], per_cell=2, resamples=5, null=2)["P9"]
