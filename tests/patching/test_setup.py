import pytest
import tiny
import torch
from helpers import without_warnings

import tvlens as tv
from tvlens import TvlensError

pytestmark = pytest.mark.tl3

METRIC = tv.logit_difference(7, 11)


def rows(lengths, seed=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 120, (n,), generator=generator).tolist() for n in lengths]


def quiet(*args, **options):
    return without_warnings(tv.patch, *args, metric=METRIC, **options)


@pytest.mark.parametrize("site", ["z", "resid_pre", "k", "pattern"])
@pytest.mark.parametrize("positions", [[-1, -4, 2], None])
def test_each_prompt_is_patched_as_if_it_were_alone(causal, site, positions):
    if tiny.shows_only(causal, site):
        pytest.skip("patching refuses this site here")
    clean, corrupted = rows([5, 11, 8]), rows([5, 11, 8], seed=5)
    options = dict(site=site, positions=positions)
    together = quiet(causal, clean, corrupted, **options)
    for i in range(3):
        alone = quiet(causal, [clean[i]], [corrupted[i]], **options)
        torch.testing.assert_close(
            together.values[..., i], alone.values[..., 0], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(together.clean[i], alone.clean[0], rtol=1e-4, atol=1e-5)
    if positions:
        assert together.coordinates["position"] == positions


def test_positions_count_from_each_side_s_own_end(causal):
    """A few-shot state into a zero-shot prompt: both at their last positions."""
    clean, corrupted = rows([12, 9, 10]), rows([4, 6, 5], seed=5)
    result = quiet(causal, clean, corrupted, site="resid_post", positions=-1)
    for i in range(3):
        with torch.no_grad():
            _, cache = causal.run_with_cache(torch.tensor([clean[i]]))
            for layer in range(3):
                name = tv.Site("resid_post", layer).hook(causal)
                state = cache[name][:, -1]

                def put(activation, hook, state=state):
                    activation = activation.clone()
                    activation[:, -1] = state
                    return activation

                logits = causal.run_with_hooks(
                    torch.tensor([corrupted[i]]), fwd_hooks=[(name, put)]
                )
                torch.testing.assert_close(
                    result.values[layer, i], METRIC(logits)[0], rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_seen_and_left_out(causal, side):
    pad = causal.tokenizer.pad_token_id
    clean, corrupted = rows([5, 11, 8]), rows([5, 11, 8], seed=5)
    clean[0][0] = clean[1][0] = clean[2][0] = pad  # a text may begin with the padding token

    def padded(prompts):
        fill = [[pad] * (11 - len(p)) for p in prompts]
        pairs = zip(fill, prompts, strict=True)
        return torch.tensor([f + p if side == "left" else p + f for f, p in pairs])

    options = dict(site="z", positions=[-1, -3])
    wanted = quiet(causal, clean, corrupted, **options)
    found = quiet(causal, padded(clean), padded(corrupted), **options)
    torch.testing.assert_close(found.values, wanted.values)


def test_gradients_of_prompts_of_unequal_length():
    model = tiny.model("llama")
    clean, corrupted = rows([5, 11, 8]), rows([5, 11, 8], seed=5)
    options = dict(site="z", metric=METRIC, positions=[-1, -3])
    together = tv.attribute(model, clean, corrupted, **options)
    for i in range(3):
        alone = tv.attribute(model, [clean[i]], [corrupted[i]], **options)
        torch.testing.assert_close(
            together.values[..., i], alone.values[..., 0], rtol=1e-4, atol=1e-5
        )
    with pytest.raises(TvlensError, match="prompts of equal lengths"):
        tv.attribute(model, rows([6, 7, 8]), corrupted, steps=3, **options)


def test_what_cannot_be_aligned_is_an_error():
    model = tiny.model("llama")
    ragged, even = rows([5, 11, 8]), rows([6, 6, 6])
    with pytest.raises(TvlensError, match=r"5 to 11 tokens have no common positions.*-1"):
        tv.patch(model, ragged, rows([5, 11, 8], 5), site="resid_pre", metric=METRIC)
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


def test_other_prompts_of_other_lengths_as_a_source():
    model = tiny.model("llama")
    prompts = rows([5, 11, 8])
    moved = tv.patch(
        model, "resample", prompts, site="resid_post", layers=-1, positions=-1, metric=METRIC
    )
    assert sorted(moved.values.tolist()) == pytest.approx(sorted(moved.baseline.tolist()), 1e-3)


def test_one_activation_for_all_prompts_and_positions():
    model = tiny.model("llama")
    prompts = rows([5, 11, 8])
    means = {tv.Site("z", l).hook(model): torch.randn(1, 1, 4, 8) for l in range(3)}
    result = tv.patch(model, means, prompts, site="z", positions=-1, metric=METRIC)
    whole = {name: mean.expand(3, 11, 4, 8) for name, mean in means.items()}
    again = tv.patch(model, whole, prompts, site="z", positions=-1, metric=METRIC)
    assert torch.equal(result.values, again.values)


@pytest.mark.parametrize("site", ["z", "pattern"])
def test_resampled_prompts_of_other_lengths_do_not_fit_as_a_whole(site):
    with pytest.raises(TvlensError, match=r"prompt \d has \d+ clean and \d+ corrupted tokens"):
        tv.patch(tiny.model("llama"), "resample", rows([5, 11, 8]), site=site, metric=METRIC)
