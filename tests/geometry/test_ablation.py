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


def run_edited(model, site, layer, edit):
    """Run the model with an edit by TransformerLens' own hooks."""
    with torch.no_grad():
        hook = (Site(site, layer).hook(model), lambda h, hook: edit(h))
        return model.run_with_hooks(TOKENS, fwd_hooks=[hook])


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_every_mode_equals_transformer_lens_hooks(causal, site):
    edits = {
        "zero": lambda h: h - h @ P,
        "mean": lambda h: h - h @ P + MEAN @ P,
    }
    for mode, edit in edits.items():
        wanted = run_edited(causal, site, 1, edit)
        options = dict(mean=MEAN) if mode == "mean" else {}
        with torch.no_grad(), SUBSPACE.ablated(causal, layer=1, site=site, mode=mode, **options):
            logits = causal(TOKENS)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad(), SUBSPACE.ablated(causal, layer=1, site=site, mode="resample", seed=5):
        logits = causal(TOKENS)
    wanted = [
        run_edited(causal, site, 1, lambda h, n=n: h + (h.roll(n, 0) - h) @ P) for n in (1, 2, 3)
    ]
    assert any(torch.allclose(logits, w, rtol=1e-4, atol=1e-5) for w in wanted)
    with torch.no_grad(), SUBSPACE.ablated(causal, layer=1, site=site, mode="resample", seed=5):
        assert torch.equal(causal(TOKENS), logits)


def test_ablated_replaces_the_component_in_the_subspace_only(causal):
    """Inside the subspace is the given mean, and the rest of the state is unchanged."""
    name = Site("resid_post", 2).hook(causal)
    states = {}
    with torch.no_grad():
        with causal.hooks(fwd_hooks=[(name, lambda h, hook: states.update(before=h.clone()))]):
            causal(TOKENS)
        with (
            SUBSPACE.ablated(causal, layer=-1, mode="mean", mean=MEAN),
            causal.hooks(fwd_hooks=[(name, lambda h, hook: states.update(after=h.clone()))]),
        ):
            causal(TOKENS)
    inside = states["after"] @ SUBSPACE.basis
    torch.testing.assert_close(inside, (MEAN @ SUBSPACE.basis).expand_as(inside), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        SUBSPACE.remove(states["after"]), SUBSPACE.remove(states["before"]), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("positions", [-1, 4, torch.tensor([1, 8, 0, 5])])
def test_ablated_edits_the_selected_positions_only(causal, positions):
    position = torch.as_tensor(positions).expand(4) % 9

    def edit(h):
        mask = (torch.arange(9) == position[:, None])[:, :, None]
        return torch.where(mask, h - h @ P, h)

    wanted = run_edited(causal, "resid_post", 0, edit)
    with torch.no_grad(), SUBSPACE.ablated(causal, layer=0, mode="zero", positions=positions):
        torch.testing.assert_close(causal(TOKENS), wanted, rtol=1e-4, atol=1e-5)


def test_ablated_removes_its_hooks_after_an_exception(causal):
    with torch.no_grad():
        before = causal(TOKENS)
        with pytest.raises(RuntimeError), SUBSPACE.ablated(causal, layer=1, mode="zero"):
            assert not torch.equal(causal(TOKENS), before)
            raise RuntimeError
        assert torch.equal(causal(TOKENS), before)


def test_ablated_accepts_every_site_of_model_width(any_name):
    model = tiny.model(any_name)
    inputs = tiny.ragged("vit") if any_name == "vit" else TOKENS
    for site in available(model, layer=1):
        if Site(site, 1).axes[-1] == "d_model":
            with torch.no_grad(), SUBSPACE.ablated(model, layer=1, site=site, mode="zero"):
                model(inputs)
        else:
            with pytest.raises(TvlensError, match="not as wide as the model: choose from resid"):
                SUBSPACE.hook(model, 1, site=site, mode="zero")


def test_mean_defaults_to_the_center_of_pca():
    model = tiny.model("llama")
    subspace = Subspace.pca(torch.randn(50, 32) + 3, rank=2)
    with torch.no_grad():
        with subspace.ablated(model, layer=1):
            ours = model(TOKENS)
        with subspace.ablated(model, layer=1, mean=subspace.center):
            assert torch.equal(model(TOKENS), ours)
        with subspace.ablated(model, layer=1, mean=MEAN):
            assert not torch.allclose(model(TOKENS), ours)


def test_resample_takes_another_row():
    h = torch.randn(3, 5, 32)
    all_shifts = set()
    for seed in range(12):
        _, edit = SUBSPACE.hook(tiny.model("llama"), 1, mode="resample", seed=seed)
        inside = edit(h, None) @ SUBSPACE.basis
        shifts = [
            n for n in range(3) if torch.allclose(inside, h.roll(n, 0) @ SUBSPACE.basis, atol=1e-5)
        ]
        all_shifts |= set(shifts)
    assert all_shifts == {1, 2}


def test_ablation_in_half_precision_equals_float32_up_to_rounding():
    _, edit = SUBSPACE.hook(tiny.model("llama"), 1, mode="zero")
    h = torch.randn(2, 5, 32).bfloat16()
    after = edit(h, None)
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after, SUBSPACE.remove(h.float()).bfloat16())


def test_gradients_flow_outside_the_subspace():
    _, edit = SUBSPACE.hook(tiny.model("llama"), 1, mode="zero")
    h = torch.randn(2, 5, 32, requires_grad=True)
    edit(h, None).sum().backward()
    torch.testing.assert_close(h.grad, (torch.ones(32) @ (torch.eye(32) - P)).expand_as(h))


def test_bad_input_raises_one_line_errors(unchecked):
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
