import pytest
import tiny
import torch
from helpers import prompt_pair, without_warnings

import tvlens as tv
from tvlens import TvlensError
from tvlens.sites import Site, available

pytestmark = pytest.mark.tl3

METRIC = tv.logit_difference(7, 11)
SITES = ["resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"]


def make_pair(length=10, batch=3):
    return prompt_pair(length, batch)


@pytest.mark.parametrize("site", SITES)
def test_attribute_equals_patch_for_small_changes(causal, site):
    """The source differs from the corrupted run by a hundredth of the difference to the clean run.

    In float64: attention barely moves the logits of a random GPT-2, no further than float32 rounds.
    """
    if tiny.shows_only(causal, site):
        pytest.skip("patching refuses this site here, which its own test shows")
    causal = tiny.in_float64(causal)
    clean, corrupted = make_pair()
    names = [Site(site, l).hook(causal) for l in range(3)]

    def read_states(tokens):
        activations = {}
        hooks = [(n, lambda a, hook, n=n: activations.update({n: a.clone()})) for n in names]
        with torch.no_grad(), causal.hooks(fwd_hooks=hooks):
            causal(tokens)
        return activations

    ends = read_states(corrupted), read_states(clean)
    near = {name: torch.lerp(ends[0][name], ends[1][name], 0.01) for name in names}
    options = dict(site=site, metric=METRIC, positions=[2, 9])
    exact = without_warnings(tv.patch, causal, near, corrupted, **options)
    estimate = tv.attribute(causal, near, corrupted, **options)
    assert estimate.axes == exact.axes
    scale = float(exact.differences.abs().max())
    assert scale > 1e-8
    assert float((estimate.differences - exact.differences).abs().max()) < 0.05 * scale


def test_integrated_gradients_sum_to_the_whole_effect():
    """At the first residual state, estimates of all positions sum to the whole difference."""
    model = tiny.model("llama")
    clean, corrupted = make_pair()
    result = tv.attribute(
        model, clean, corrupted, site="resid_pre", layers=0, metric=METRIC, steps=64
    )
    gap = result.clean - result.baseline
    torch.testing.assert_close(result.differences.sum(0), gap, rtol=0.02, atol=2e-3)


def test_attribute_with_refine_patches_exactly(causal):
    clean, corrupted = make_pair()
    options = dict(site="z", metric=METRIC, positions=-1)
    exact = without_warnings(tv.patch, causal, clean, corrupted, **options)
    estimate = tv.attribute(causal, clean, corrupted, **options)
    refined = without_warnings(tv.attribute, causal, clean, corrupted, refine=4, **options)
    top = estimate.differences.abs().mean(-1).flatten().topk(4).indices
    torch.testing.assert_close(
        refined.values.flatten(0, 1)[top], exact.values.flatten(0, 1)[top], rtol=1e-4, atol=1e-5
    )
    assert refined.settings["refined"] == 4
    assert -1 <= estimate.rank_correlation(exact) <= 1
    refined_all = without_warnings(tv.attribute, causal, clean, corrupted, refine=99, **options)
    assert refined_all.rank_correlation(exact) == pytest.approx(1)


def test_attribute_of_several_metrics_sums_over_positions():
    model = tiny.model("gpt2")
    clean, corrupted = make_pair()
    metrics = {"difference": METRIC, "log p": tv.log_probability(7)}
    result = tv.attribute(model, clean, corrupted, site="head_out", metric=metrics)
    assert result.axes == ("metric", "layer", "head")
    swept = tv.attribute(model, clean, corrupted, site="head_out", metric=METRIC, positions="all")
    torch.testing.assert_close(result["difference"].effect, swept.effect.sum(-1))


def test_attribute_leaves_no_gradients():
    model = tiny.model("llama")
    clean, corrupted = make_pair()
    tv.attribute(model, clean, corrupted, site="resid_pre", metric=METRIC)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("steps", [1, 3])
def test_attribute_gives_the_same_under_inference_mode(causal, steps):
    """PyTorch records no gradients there by default."""
    clean, corrupted = make_pair()
    options = dict(site="z", metric=METRIC, steps=steps, refine=2)
    wanted = without_warnings(tv.attribute, causal, clean, corrupted, **options)
    with torch.inference_mode():
        result = without_warnings(tv.attribute, causal, clean.clone(), corrupted.clone(), **options)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(result.values, wanted.values)


def test_attribute_refuses_models_without_gradients():
    with torch.inference_mode():
        model = tv.load(tiny._hugging_face("gpt2").eval())
    with pytest.raises(TvlensError, match=r"created under torch.inference_mode"):
        tv.attribute(model, *make_pair(), site="z", metric=METRIC)


@pytest.mark.parametrize("metric", [tv.rank(3), tv.accuracy(3), lambda x: x[:, -1, 3].detach()])
def test_attribute_refuses_metrics_without_gradient(metric):
    with pytest.raises(TvlensError, match="the metric has no gradient: counts such as rank"):
        tv.attribute(tiny.model("llama"), *make_pair(), site="z", metric=metric)


def test_bad_input_raises_one_line_errors(unchecked):
    model = tiny.model("llama")
    clean, corrupted = make_pair()
    options = dict(site="z", metric=METRIC)
    with pytest.raises(TvlensError, match="steps must be 1 or more, not 0"):
        tv.attribute(model, clean, corrupted, steps=0, **options)
    with pytest.raises(TvlensError, match=r"steps must be one integer, not 1.5"):
        tv.attribute(model, clean, corrupted, steps=1.5, **options)
    with pytest.raises(TvlensError, match="refine must be 0 or more, not -1"):
        tv.attribute(model, clean, corrupted, refine=-1, **options)
    with pytest.raises(TvlensError, match="need clean prompts"):
        tv.attribute(model, "zero", corrupted, steps=2, **options)
    one = tv.attribute(model, clean, corrupted, **options)
    two = tv.attribute(model, clean, corrupted, **options | {"positions": -1, "layers": [1]})
    with pytest.raises(TvlensError, match="not of one sweep"):
        one.rank_correlation(two)


def test_tested_sites_are_all_sites():
    assert set(SITES) | {"resid_mid"} == set(available(tiny.model("llama")))
