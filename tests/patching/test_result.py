import numpy as np
import pytest
import scipy.stats
import tiny
import torch
from helpers import METRIC, prompt_pair

import tvlens as tv
from tvlens import PatchResult, TvlensError

pytestmark = pytest.mark.tl3


def test_patch_result_has_statistics_and_is_saved(tmp_path):
    model = tiny.model("llama")
    clean, corrupted = prompt_pair(batch=6)
    result = tv.patch(model, clean, corrupted, site="head_out", metric=METRIC, positions=-1)
    torch.testing.assert_close(result.effect, (result.values - result.baseline).mean(-1))
    for method in ("t", "bootstrap"):
        ends = result.confidence_interval(method=method, seed=1)
        assert bool((ends[..., 0] <= result.effect + 1e-6).all())
        assert bool((result.effect <= ends[..., 1] + 1e-6).all())
    ends = result.interval
    assert bool((ends[..., 0] <= result.effect + 1e-6).all())
    assert bool((result.effect <= ends[..., 1] + 1e-6).all())
    # The exact sign-flip test against scipy's own.
    effects = (result.values - result.baseline)[1, 2].double().numpy()
    expected = scipy.stats.permutation_test(
        (effects,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert float(result.p_value()[1, 2]) == pytest.approx(expected.pvalue)
    frame = result.to_dataframe()
    assert list(frame.columns) == ["layer", "head", "effect", "low", "high", "p_value"]
    assert len(frame) == 12 and len(result.top(3)) == 3
    assert len(result.attention) == 8
    pattern = tv.collect(model, clean[:1].tolist(), "pattern", progress=False).stack("pattern")
    for name, attention in result.attention.items():
        layer, head = map(int, name[1:].split("H"))
        torch.testing.assert_close(attention, pattern[layer, 0, :, head])
    assert "data-tvlens" in result._repr_html_()
    result.save(tmp_path / "r.safetensors")
    loaded = PatchResult.load(tmp_path / "r.safetensors")
    assert torch.equal(loaded.values, result.values) and loaded.axes == result.axes
    assert loaded.coordinates == result.coordinates and set(loaded.attention) == set(
        result.attention
    )
    (tmp_path / "no").write_bytes(b"junk" * 10)
    with pytest.raises(TvlensError, match="holds no PatchResult"):
        PatchResult.load(tmp_path / "no")


@pytest.mark.parametrize(("size", "skewed"), [(5, 0.88), (10, 0.90), (20, 0.92)])
def test_default_interval_has_documented_coverage(size, skewed):
    """Coverage over 20,000 sweeps of normal and exponential effects (standard error .0023)."""
    generator = torch.Generator().manual_seed(size)
    normal = torch.randn(20_000, size, generator=generator, dtype=torch.float64)
    exponential = -torch.rand(20_000, size, generator=generator, dtype=torch.float64).log()
    for values, mean, wanted in ((normal, 0, 0.95), (exponential, 1, skewed)):
        axes = ("layer",), {"layer": list(range(20_000))}
        result = PatchResult(values, *axes, torch.zeros(size).double(), None, "z")
        low, high = result.interval.T
        coverage = float(((low <= mean) & (mean <= high)).double().mean())
        assert coverage == pytest.approx(wanted, abs=0.011)


def test_interval_of_one_example_is_nan():
    """Also in tables and figures."""
    axes = ("layer",), {"layer": [0, 1, 2]}
    result = PatchResult(torch.ones(3, 1), *axes, torch.zeros(1), None, "z")
    for method in ("t", "bootstrap"):
        assert bool(result.confidence_interval(method=method).isnan().all())
    frame = result.to_dataframe()
    assert frame.low.isna().all() and frame.high.isna().all() and frame.effect.tolist() == [1.0] * 3
    assert "data-tvlens" in result._repr_html_()


def test_p_values_of_noise_are_uniform():
    """Sign flips of noise around zero: p-values are uniform."""
    noise = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    result = PatchResult(noise, ("layer",), {"layer": list(range(400))}, torch.zeros(8), None, "z")
    assert scipy.stats.kstest(result.p_value().numpy(), "uniform").pvalue > 0.01
