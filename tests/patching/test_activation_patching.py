import itertools
import warnings

import numpy as np
import pytest
import tiny
import torch
from helpers import METRIC, TREE_ATTENTION, patch_with_hooks, prompt_pair

import tvlens as tv
from tvlens import TvlensError
from tvlens.sites import COMPONENTS, Site, available

pytestmark = pytest.mark.tl3


@pytest.mark.parametrize("site", sorted(COMPONENTS))
def test_patch_matches_full_forward_at_every_site(causal, site):
    if site not in available(causal):
        pytest.skip("parallel blocks have no state between attention and MLP")
    clean, corrupted = prompt_pair()
    if tiny.shows_only(causal, site):
        with pytest.raises(TvlensError, match="does not read it back"):
            tv.patch(causal, clean, corrupted, site=site, metric=METRIC)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tv.patch(causal, clean, corrupted, site=site, metric=METRIC, positions=[0, 5, 11])
    heads = result.coordinates.get("head", [None])
    assert result.axes == (("layer", "head") if heads != [None] else ("layer",)) + ("position",)
    values = result.values.view(3, len(heads), 3, 3)
    for layer, head, p in [(0, 0, 0), (1, -1, 1), (2, 0, 2), (2, -1, 1), (0, -1, 2)]:
        wanted = patch_with_hooks(causal, clean, corrupted, site, layer, heads[head], [0, 5, 11][p])
        torch.testing.assert_close(values[layer, head, p], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("site", ["z", "resid_post", "k"])
def test_patch_of_joint_positions_and_heads_matches_full_forward(causal, site):
    clean, corrupted = prompt_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tv.patch(
            causal, clean, corrupted, site=site, metric=METRIC, heads=None, positions=None
        )
    assert result.axes == ("layer",)
    for layer in range(3):
        wanted = patch_with_hooks(causal, clean, corrupted, site, layer, None, None)
        torch.testing.assert_close(result.values[layer], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TREE_ATTENTION)
def test_patch_equals_transformer_lens(name):
    from transformer_lens import patching

    model = tiny.model(name)
    clean, corrupted = prompt_pair(length=7, batch=2)
    _, cache = model.run_with_cache(clean)

    def mean(logits):
        return METRIC(logits).mean()

    resid = patching.get_act_patch_resid_pre(model, corrupted, cache, mean)
    ours = tv.patch(model, clean, corrupted, site="resid_pre", metric=METRIC)
    torch.testing.assert_close(ours.values.mean(-1), resid, rtol=1e-4, atol=1e-5)
    heads = patching.get_act_patch_attn_head_out_all_pos(model, corrupted, cache, mean)
    ours = tv.patch(model, clean, corrupted, site="head_out", metric=METRIC)
    torch.testing.assert_close(ours.values.mean(-1), heads, rtol=1e-4, atol=1e-5)


def test_patch_of_the_last_state_restores_the_clean_run(causal):
    """The logits depend on the last state only, so that its effect is the whole difference."""
    clean, corrupted = prompt_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tv.patch(
            causal, clean, corrupted, site="resid_post", layers=-1, positions=-1, metric=METRIC
        )
    assert result.axes == ()
    torch.testing.assert_close(result.values, result.clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.normalised, torch.ones(()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(site="head_ou"), "did you mean 'head_out'"),
        (dict(site="z", layers=[3]), "layers: 3 does not exist, there are 0 to 2"),
        (dict(site="z", heads=9), "heads: 9 does not exist"),
        (dict(site="z", positions=40), "positions: 40 does not exist"),
        (dict(site="z", positions=[]), "positions is empty"),
        (dict(site="z", layers="some"), "layers must be 'all'"),
        (dict(site="z", metric=lambda x: x * float("nan")), "one number per example"),
        (dict(site="z", metric=lambda x: x[:, -1, 0] * float("nan")), "NaN for example 0"),
        (dict(site="z", metric=3), "a metric is a function of logits.*not int"),
        (dict(site="z", metric={}), "no metric"),
        (dict(site="z", metric=tv.kl_divergence(torch.rand(2, 384))), r"logits \[2, 384\] to com"),
        (dict(site="z", metric=tv.kl_divergence(torch.rand(3, 38))), r"with \[3, 384\]"),
        (dict(site="z", layers=True), "layers must be one integer or several, not True"),
        (dict(site="z", layers=1.0), "layers must be one integer or several, not 1.0"),
        (dict(site="z", heads=False), "heads must be one integer or several, not False"),
        (dict(site="z", positions="last"), "positions must be 'all', numbers or None"),
        (dict(site="z", positions=1.5), "positions must be one integer or several"),
        (dict(site="z", batch_tokens=0), "batch_tokens must be 1 or more, not 0"),
        (dict(site="z", max_memory=-1), "gigabytes above 0, not -1"),
        (dict(site="z", seed="x"), "seed must be one integer, not 'x'"),
        (dict(site="z", seed=-1), "seed must be 0 or more, not -1"),
        (dict(site="resid_post", heads=2), "resid_post has no heads: leave heads=2 out"),
        (dict(site=None), "unknown site 'None': choose from resid_pre"),
        (dict(site="blocks.1.attn.hook_z", layers=2), "names layer 1, but layers=2"),
        (dict(site=Site("z", 1, head=2), heads=[0]), r"names one of heads, 2: leave heads=\[0\]"),
    ],
)
def test_bad_input_raises_one_line_errors(unchecked, options, message):
    clean, corrupted = prompt_pair()
    with pytest.raises(TvlensError, match=message):
        tv.patch(tiny.model("llama"), clean, corrupted, **{"metric": METRIC, **options})


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_pre", "resid_pre.1", Site("resid_pre", 1)])
@pytest.mark.parametrize("function", [tv.patch, tv.attribute])
def test_site_name_with_a_layer_patches_that_layer(function, name):
    model, (clean, corrupted) = tiny.model("llama"), prompt_pair()
    named = function(model, clean, corrupted, site=name, metric=METRIC)
    all_layers = function(model, clean, corrupted, site="resid_pre", metric=METRIC)
    assert named.axes == ("position",) and named.settings["layer"] == 1
    torch.testing.assert_close(named.values, all_layers.values[1], rtol=1e-4, atol=1e-5)


def test_site_with_head_and_position_is_one_patch():
    model, (clean, corrupted) = tiny.model("llama"), prompt_pair()
    site = Site("z", 1, head=2, position=-1)
    single = tv.patch(model, clean, corrupted, site=site, metric=METRIC)
    all_heads = tv.patch(model, clean, corrupted, site="z", metric=METRIC, positions=-1)
    assert single.axes == ()
    torch.testing.assert_close(single.values, all_heads.values[1, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one", [np.int64(1), torch.tensor(1)])
@pytest.mark.parametrize("several", [np.array([0, -1]), torch.tensor([0, -1]), range(0, -2, -1)])
def test_coordinates_accept_integers_of_every_library(one, several):
    model, (clean, corrupted) = tiny.model("llama"), prompt_pair()
    for function in (tv.patch, tv.attribute):
        options = dict(site="z", metric=METRIC)
        result = function(
            model, clean, corrupted, layers=one, heads=several, positions=several, **options
        )
        expected = function(
            model, clean, corrupted, layers=1, heads=[0, -1], positions=[0, -1], **options
        )
        assert result.coordinates == expected.coordinates
        assert torch.equal(result.values, expected.values)


def test_patch_refuses_equal_prompts_and_training_mode():
    clean, corrupted = prompt_pair()
    model = tiny.model("qwen3")
    with pytest.raises(TvlensError, match="the same prompts"):
        tv.patch(model, clean, clean, site="z", metric=METRIC)
    model.train()
    try:
        with pytest.raises(TvlensError, match=r"call model.eval\(\) first"):
            tv.patch(model, clean, corrupted, site="z", metric=METRIC)
    finally:
        model.eval()


def test_patch_removes_hooks_after_an_exception(causal):
    clean, corrupted = prompt_pair()
    with torch.no_grad():
        before = causal(corrupted)

    def fail(logits):
        raise RuntimeError("stop")

    calls = itertools.count()

    def fail_later(logits):
        return fail(logits) if next(calls) > 3 else METRIC(logits)

    for metric in (fail, fail_later):
        with pytest.raises(RuntimeError, match="stop"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tv.patch(causal, clean, corrupted, site="resid_post", metric=metric)
    with torch.no_grad():
        assert torch.equal(causal(corrupted), before)
