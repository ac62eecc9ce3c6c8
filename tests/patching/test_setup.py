import pytest
import tiny
import torch
from helpers import METRIC, without_warnings

import tvlens as tv
from tvlens import TvlensError

pytestmark = pytest.mark.tl3


def sample_rows(lengths, seed=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 120, (n,), generator=generator).tolist() for n in lengths]


def patch(*args, **options):
    return without_warnings(tv.patch, *args, metric=METRIC, **options)


@pytest.mark.parametrize("site", ["z", "resid_pre", "k", "pattern"])
@pytest.mark.parametrize("positions", [[-1, -4, 2], None])
def test_patch_of_ragged_prompts_equals_single_prompts(causal, site, positions):
    if tiny.shows_only(causal, site):
        pytest.skip("patching refuses this site here")
    clean, corrupted = sample_rows([5, 11, 8]), sample_rows([5, 11, 8], seed=5)
    options = dict(site=site, positions=positions)
    together = patch(causal, clean, corrupted, **options)
    for i in range(3):
        alone = patch(causal, [clean[i]], [corrupted[i]], **options)
        torch.testing.assert_close(
            together.values[..., i], alone.values[..., 0], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(together.clean[i], alone.clean[0], rtol=1e-4, atol=1e-5)
    if positions:
        assert together.coordinates["position"] == positions


def test_negative_positions_count_from_the_end_of_each_prompt(causal):
    """States of few-shot prompts are patched into zero-shot prompts of other lengths."""
    clean, corrupted = sample_rows([12, 9, 10]), sample_rows([4, 6, 5], seed=5)
    result = patch(causal, clean, corrupted, site="resid_post", positions=-1)
    for i in range(3):
        with torch.no_grad():
            _, cache = causal.run_with_cache(torch.tensor([clean[i]]))
            for layer in range(3):
                name = tv.Site("resid_post", layer).hook(causal)
                state = cache[name][:, -1]

                def write(activation, hook, state=state):
                    activation = activation.clone()
                    activation[:, -1] = state
                    return activation

                logits = causal.run_with_hooks(
                    torch.tensor([corrupted[i]]), fwd_hooks=[(name, write)]
                )
                torch.testing.assert_close(
                    result.values[layer, i], METRIC(logits)[0], rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize("side", ["left", "right"])
def test_patch_ignores_padding(causal, side):
    pad = causal.tokenizer.pad_token_id
    clean, corrupted = sample_rows([5, 11, 8]), sample_rows([5, 11, 8], seed=5)
    clean[0][0] = clean[1][0] = clean[2][0] = pad  # a text may begin with the padding token

    def pad_rows(prompts):
        fill = [[pad] * (11 - len(p)) for p in prompts]
        pairs = zip(fill, prompts, strict=True)
        return torch.tensor([f + p if side == "left" else p + f for f, p in pairs])

    options = dict(site="z", positions=[-1, -3])
    wanted = patch(causal, clean, corrupted, **options)
    result = patch(causal, pad_rows(clean), pad_rows(corrupted), **options)
    torch.testing.assert_close(result.values, wanted.values)


def test_attribute_of_ragged_prompts_equals_single_prompts():
    model = tiny.model("llama")
    clean, corrupted = sample_rows([5, 11, 8]), sample_rows([5, 11, 8], seed=5)
    options = dict(site="z", metric=METRIC, positions=[-1, -3])
    together = tv.attribute(model, clean, corrupted, **options)
    for i in range(3):
        alone = tv.attribute(model, [clean[i]], [corrupted[i]], **options)
        torch.testing.assert_close(
            together.values[..., i], alone.values[..., 0], rtol=1e-4, atol=1e-5
        )
    with pytest.raises(TvlensError, match="prompts of equal lengths"):
        tv.attribute(model, sample_rows([6, 7, 8]), corrupted, steps=3, **options)


def test_patch_refuses_prompts_that_cannot_be_aligned():
    model = tiny.model("llama")
    ragged, even = sample_rows([5, 11, 8]), sample_rows([6, 6, 6])
    with pytest.raises(TvlensError, match=r"5 to 11 tokens have no common positions.*-1"):
        tv.patch(model, ragged, sample_rows([5, 11, 8], 5), site="resid_pre", metric=METRIC)
    with pytest.raises(TvlensError, match="prompt 0 has 6 clean and 5 corrupted tokens"):
        tv.patch(model, even, ragged, site="z", metric=METRIC)
    with pytest.raises(TvlensError, match="prompt 0 has 6 clean and 5 corrupted tokens"):
        tv.patch(model, even, ragged, site="pattern", positions=-1, metric=METRIC)
    with pytest.raises(TvlensError, match="positions: -6 does not exist, there are 0 to 4"):
        tv.patch(model, even, ragged, site="z", positions=[-6], metric=METRIC)
    with pytest.raises(TvlensError, match="2 clean prompts and 3 corrupted ones"):
        tv.patch(model, even[:2], ragged, site="z", positions=-1, metric=METRIC)
    with pytest.raises(TvlensError, match="no mean at each position"):
        tv.patch(model, "mean", ragged, site="z", positions=-1, metric=METRIC)


def test_resample_accepts_prompts_of_other_lengths():
    model = tiny.model("llama")
    prompts = sample_rows([5, 11, 8])
    resampled = tv.patch(
        model, "resample", prompts, site="resid_post", layers=-1, positions=-1, metric=METRIC
    )
    assert sorted(resampled.values.tolist()) == pytest.approx(
        sorted(resampled.baseline.tolist()), 1e-3
    )


def test_patch_broadcasts_an_activation_over_prompts_and_positions():
    model = tiny.model("llama")
    prompts = sample_rows([5, 11, 8])
    means = {tv.Site("z", l).hook(model): torch.randn(1, 1, 4, 8) for l in range(3)}
    result = tv.patch(model, means, prompts, site="z", positions=-1, metric=METRIC)
    expanded_means = {name: mean.expand(3, 11, 4, 8) for name, mean in means.items()}
    expanded = tv.patch(model, expanded_means, prompts, site="z", positions=-1, metric=METRIC)
    assert torch.equal(result.values, expanded.values)


@pytest.mark.parametrize("site", ["z", "pattern"])
def test_resample_of_all_positions_refuses_other_lengths(site):
    with pytest.raises(TvlensError, match=r"prompt \d has \d+ clean and \d+ corrupted tokens"):
        tv.patch(tiny.model("llama"), "resample", sample_rows([5, 11, 8]), site=site, metric=METRIC)
