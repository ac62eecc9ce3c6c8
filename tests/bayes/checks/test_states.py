"""Where the states of models and of ideal models stand, and what they refuse."""

import pytest
import torch
from planted import PlantedModel, untrained_model

from tvlens import TvlensError, bayes
from tvlens.bayes.checks.model_predictions import model_inputs
from tvlens.bayes.checks.states import ruled_layers, state_source


def test_states_of_tokens_are_the_outputs_of_a_block():
    family = bayes.Dice(faces=4, seed=0)
    source = state_source(untrained_model(family, context=9), family, layer=-1)
    data = family.sample(5, 9, seed=0)
    _, cache = source.model.run_with_cache(data.tokens)
    states = source.read(data)
    torch.testing.assert_close(states, cache["blocks.1.hook_resid_post"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(source.read_last(data), states[:, -1])
    assert (source.layer, source.width, source.longest) == (1, 32, 9)


def test_states_of_a_regression_are_those_of_its_inputs():
    family = bayes.LinearRegression(seed=0)
    source = state_source(untrained_model(family, context=9), family, layer=0)
    data = family.sample(4, 5, seed=0)
    _, cache = source.model.run_with_cache(model_inputs(data))
    states = source.read(data)
    expected = cache["blocks.0.hook_resid_post"][:, ::2]
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(source.read_last(data), states[:, -1])
    assert states.shape[1] == 5 and source.longest == 4  # the last of 5 targets is not read


@pytest.mark.parametrize("kind", ["retrieval", "learner", "label", "readout"])
def test_ideal_models_are_sources_of_states(kind):
    for family in (bayes.Markov(states=4, seed=0), bayes.LinearRegression(dim=2, seed=0)):
        source = state_source(kind, family, length=6)
        data = family.sample(300, 6, seed=0)  # more than one batch
        states = source.read(data)
        torch.testing.assert_close(states, bayes.reference_states(family, data, kind=kind))
        assert states.shape == (300, 6, source.width)
        assert (source.name, source.layer) == (kind, 0)
        assert source.longest == 6 - hasattr(family, "dim")


def test_directions_of_many_minor_tasks_share_64_dimensions():
    family = bayes.Dice(faces=4, minor=100, seed=0)
    source = state_source("retrieval", family, length=8)
    data = family.sample(20, 8, seed=0)
    full = bayes.reference_states(family, data, kind="retrieval")
    states = source.read(data)
    assert states.shape[-1] == source.width == 3 + 64 + 4
    torch.testing.assert_close(states[..., :3], full[..., :3])
    torch.testing.assert_close(states[..., -4:], full[..., -4:])
    rank = torch.linalg.matrix_rank(states[..., 3:-4].flatten(0, 1))
    assert rank == torch.linalg.matrix_rank(full[..., 3:-4].flatten(0, 1)).clamp(max=64)


def test_ruled_layers_are_half_and_two_thirds_of_the_depth():
    layers = {n: ruled_layers(n) for n in (2, 3, 4, 6, 8, 12, 16)}
    assert layers[2] == (0, 1) and layers[3] == (1, 1) and layers[4] == (1, 2)
    assert layers[6] == (2, 3) and layers[16] == (7, 10)
    with pytest.raises(TvlensError, match="a layer rule needs at least two layers, not 1"):
        ruled_layers(1)


def test_sources_that_do_not_exist_are_one_line():
    family = bayes.Dice(faces=4, seed=0)
    with pytest.raises(TvlensError, match="needs length=, its context"):
        state_source("retrieval", family)
    with pytest.raises(TvlensError, match="did you mean 'learner'"):
        state_source("lerner", family, length=8)
    with pytest.raises(TvlensError, match="layer 3 does not exist: the ideal model 'label'"):
        state_source("label", family, layer=3, length=8)
    with pytest.raises(TvlensError, match="length is the context of an ideal model"):
        state_source(PlantedModel(family), family, length=8)
    with pytest.raises(TvlensError, match=r"vocabulary of 4 tokens and .* of 6"):
        state_source(PlantedModel(family), bayes.Dice())
    with pytest.raises(TvlensError, match="layer 7 does not exist"):
        state_source(PlantedModel(family), family, layer=7)
    source = state_source("label", family, length=8)
    with pytest.raises(TvlensError, match="have 9 observations; label has a context of 8"):
        source.read(family.sample(2, 9))
