import pytest
import tiny
import torch

from tvlens import Subspace, TvlensError
from tvlens.sites import Site, available

pytestmark = pytest.mark.tl3

SUBSPACE = Subspace.random(32, 3, seed=1)
P = SUBSPACE.basis @ SUBSPACE.basis.T
MEAN = torch.randn(32, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randint(3, 120, (4, 9), generator=torch.Generator().manual_seed(3))


def by_hand(model, site, layer, edit):
    """The same edit through TransformerLens' own hooks."""
    with torch.no_grad():
        hook = (Site(site, layer).hook(model), lambda h, hook: edit(h))
        return model.run_with_hooks(TOKENS, fwd_hooks=[hook])


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_every_mode_by_hand(causal, site):
    edits = {
        "zero": lambda h: h - h @ P,
        "mean": lambda h: h - h @ P + MEAN @ P,
    }
    for mode, edit in edits.items():
        wanted = by_hand(causal, site, 1, edit)
        options = dict(mean=MEAN) if mode == "mean" else {}
        with torch.no_grad(), SUBSPACE.ablated(causal, layer=1, site=site, mode=mode, **options):
            logits = causal(TOKENS)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad(), SUBSPACE.ablated(causal, layer=1, site=site, mode="resample", seed=5):
        logits = causal(TOKENS)
    wanted = [
        by_hand(causal, site, 1, lambda h, n=n: h + (h.roll(n, 0) - h) @ P) for n in (1, 2, 3)
    ]
    assert any(torch.allclose(logits, w, rtol=1e-4, atol=1e-5) for w in wanted)
    with torch.no_grad(), SUBSPACE.ablated(causal, layer=1, site=site, mode="resample", seed=5):
        assert torch.equal(causal(TOKENS), logits)


def test_what_is_removed_is_gone(causal):
    """Read behind the ablation: nothing inside but what was put there, all else as before."""
    name = Site("resid_post", 2).hook(causal)
    kept = {}
    with torch.no_grad():
        with causal.hooks(fwd_hooks=[(name, lambda h, hook: kept.update(before=h.clone()))]):
            causal(TOKENS)
        with (
            SUBSPACE.ablated(causal, layer=-1, mode="mean", mean=MEAN),
            causal.hooks(fwd_hooks=[(name, lambda h, hook: kept.update(after=h.clone()))]),
        ):
            causal(TOKENS)
    inside = kept["after"] @ SUBSPACE.basis
    torch.testing.assert_close(inside, (MEAN @ SUBSPACE.basis).expand_as(inside), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        SUBSPACE.remove(kept["after"]), SUBSPACE.remove(kept["before"]), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("positions", [-1, 4, torch.tensor([1, 8, 0, 5])])
def test_only_the_asked_positions(causal, positions):
    at = torch.as_tensor(positions).expand(4) % 9

    def edit(h):
        mask = (torch.arange(9) == at[:, None])[:, :, None]
        return torch.where(mask, h - h @ P, h)

    wanted = by_hand(causal, "resid_post", 0, edit)
    with torch.no_grad(), SUBSPACE.ablated(causal, layer=0, mode="zero", positions=positions):
        torch.testing.assert_close(causal(TOKENS), wanted, rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_afterwards_even_after_an_exception(causal):
    with torch.no_grad():
        before = causal(TOKENS)
        with pytest.raises(RuntimeError), SUBSPACE.ablated(causal, layer=1, mode="zero"):
            assert not torch.equal(causal(TOKENS), before)
            raise RuntimeError
        assert torch.equal(causal(TOKENS), before)


def test_every_component_of_the_models_width(any_name):
    model = tiny.model(any_name)
    inputs = tiny.ragged("vit") if any_name == "vit" else TOKENS
    for site in available(model, layer=1):
        if Site(site, 1).axes[-1] == "d_model":
            with torch.no_grad(), SUBSPACE.ablated(model, layer=1, site=site, mode="zero"):
                model(inputs)
        else:
            with pytest.raises(TvlensError, match="not as wide as the model: choose from resid"):
                SUBSPACE.hook(model, 1, site=site, mode="zero")


def test_the_center_of_pca_is_the_mean_put_there():
    model = tiny.model("llama")
    fitted = Subspace.pca(torch.randn(50, 32) + 3, rank=2)
    with torch.no_grad():
        with fitted.ablated(model, layer=1):
            ours = model(TOKENS)
        with fitted.ablated(model, layer=1, mean=fitted.center):
            assert torch.equal(model(TOKENS), ours)
        with fitted.ablated(model, layer=1, mean=MEAN):
            assert not torch.allclose(model(TOKENS), ours)


def test_resampling_always_takes_another_row():
    h = torch.randn(3, 5, 32)
    seen = set()
    for seed in range(12):
        _, edit = SUBSPACE.hook(tiny.model("llama"), 1, mode="resample", seed=seed)
        inside = edit(h, None) @ SUBSPACE.basis
        shifts = [
            n for n in range(3) if torch.allclose(inside, h.roll(n, 0) @ SUBSPACE.basis, atol=1e-5)
        ]
        seen |= set(shifts)
    assert seen == {1, 2}


def test_half_precision_removes_all_but_rounding():
    _, edit = SUBSPACE.hook(tiny.model("llama"), 1, mode="zero")
    h = torch.randn(2, 5, 32).bfloat16()
    after = edit(h, None)
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after, SUBSPACE.remove(h.float()).bfloat16())


def test_gradients_pass():
    _, edit = SUBSPACE.hook(tiny.model("llama"), 1, mode="zero")
    h = torch.randn(2, 5, 32, requires_grad=True)
    edit(h, None).sum().backward()
    torch.testing.assert_close(h.grad, (torch.ones(32) @ (torch.eye(32) - P)).expand_as(h))


def test_bad_input(unchecked):
    model = tiny.model("gpt2")
    cases = [
        (dict(layer=0), "mode 'mean' needs mean="),
        (dict(layer=0, mode="men", mean=MEAN), "did you mean 'mean'"),
        (dict(layer=0, mean=MEAN[:5]), "mean has width 5 and the subspace has width 32"),
        (dict(layer=0, mean=MEAN * torch.nan), "NaN"),
        (dict(layer=7, mode="zero"), "layer 7 does not exist"),
        (dict(layer=0, mode="zero", site="resid_pst"), "did you mean 'resid_post'"),
    ]
    for options, message in cases:
        with pytest.raises(TvlensError, match=message), SUBSPACE.ablated(model, **options):
            pass
    with (
        pytest.raises(TvlensError, match=r"the subspace lies in 16 dimensions; .* has 32"),
        Subspace.random(16, 2).ablated(model, layer=0, mode="zero"),
    ):
        pass
    with (
        pytest.raises(TvlensError, match="at least two rows"),
        SUBSPACE.ablated(model, layer=0, mode="resample"),
    ):
        model(TOKENS[:1])
