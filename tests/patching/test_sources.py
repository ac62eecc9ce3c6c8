import pytest
import tiny
import torch
from helpers import METRIC, prompt_pair

import tvlens as tv
from tvlens import TvlensError

pytestmark = pytest.mark.tl3


def test_patch_accepts_caches_vectors_and_named_sources(monkeypatch):
    model = tiny.model("llama")
    clean, corrupted = prompt_pair()
    options = dict(site="resid_post", metric=METRIC, positions=-1)
    from_run = tv.patch(model, clean, corrupted, **options)
    _, cache = model.run_with_cache(clean)
    from_cache = tv.patch(model, cache, corrupted, **options)
    torch.testing.assert_close(from_cache.values, from_run.values)
    assert from_cache.clean is None
    vector = tv.TaskVector(torch.randn(3, 32))
    from_vector = tv.patch(model, vector, corrupted, **options)
    with torch.no_grad(), vector.applied(model, layer=1):
        wanted = METRIC(model(corrupted))
    torch.testing.assert_close(from_vector.values[1], wanted, rtol=1e-4, atol=1e-5)
    for source in ("zero", "mean", "resample"):
        assert tv.patch(model, source, corrupted, **options).effect.any()
    resampled = tv.patch(model, "resample", corrupted, seed=0, **options | {"layers": [2]})
    assert sorted(resampled.values[0].tolist()) == pytest.approx(
        sorted(resampled.baseline.tolist()), 1e-3
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"blocks.1.attn.hook_z": 3}, "blocks.1.attn.hook_z in the cache is no tensor but int"),
        (tv.TaskVector(torch.rand(1, 32), "z"), "1 layers of width 32; it has none for layer 1"),
        (tv.TaskVector(torch.rand(3, 30), "z"), "3 layers of width 30; .* of width 8"),
    ],
)
def test_patch_refuses_invalid_sources(unchecked, source, message):
    with pytest.raises(TvlensError, match=message):
        tv.patch(tiny.model("llama"), source, prompt_pair()[1], site="z", metric=METRIC, layers=1)
