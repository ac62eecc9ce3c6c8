import pytest
import tiny
import torch
from helpers import METRIC, TREE_ATTENTION, fail_if_called, patch_with_hooks, prompt_pair

import tvlens as tv
from tvlens import TvlensError
from tvlens.patching import sweep, verification

pytestmark = pytest.mark.tl3


@pytest.mark.parametrize("name", TREE_ATTENTION)
def test_tree_attention_runs_where_it_is_exact(name, monkeypatch):
    model = tiny.model(name)
    clean, corrupted = prompt_pair()
    monkeypatch.setattr(sweep, "batched", fail_if_called)
    monkeypatch.setattr(sweep, "full_forward", fail_if_called)
    result = tv.patch(model, clean, corrupted, site="z", metric=METRIC, positions=-1)
    assert result.settings["engine"] == "tree_attention"


@pytest.mark.parametrize("name", sorted({"native", "bloom", tiny.CAUSAL[-1]}))
def test_batched_engine_starts_at_the_patched_layer(name, monkeypatch):
    model = tiny.model(name)
    clean, corrupted = prompt_pair()
    options = dict(site="mlp_out", metric=METRIC, positions=-1, verify=0)
    tv.patch(model, clean, corrupted, **options)
    monkeypatch.setattr(sweep, "full_forward", fail_if_called)
    batch_sizes = []
    with model.hooks(
        fwd_hooks=[("blocks.0.hook_resid_pre", lambda a, hook: batch_sizes.append(len(a)))]
    ):
        result = tv.patch(model, clean, corrupted, layers=[2], **options)
    assert batch_sizes == [3, 3]  # the two runs of the prompts; no patch passes the first block
    assert result.settings["engine"] == "batched"


def test_sweep_restarts_when_its_verified_sample_differs(monkeypatch):
    """The sample of a sweep detects an engine that fails after its verification."""
    model = tiny.model("llama")
    clean, corrupted = prompt_pair()
    options = dict(site="z", metric=METRIC, positions=-1)
    tv.patch(model, clean, corrupted, **options)  # verified
    tree_attention = sweep.tree_attention
    monkeypatch.setattr(sweep, "tree_attention", lambda *a: tree_attention(*a) + 0.01)
    unverified = tv.patch(model, clean, corrupted, verify=0, **options)
    assert unverified.settings["engine"] == "tree_attention"
    with pytest.warns(UserWarning, match=r"cannot resume at a position for z \(z\.\d.*differs"):
        result = tv.patch(model, clean, corrupted, **options)
    assert result.settings["engine"] == "batched"
    wanted = patch_with_hooks(model, clean, corrupted, "z", 1, 2, 11)
    torch.testing.assert_close(result.values[1, 2], wanted, rtol=1e-4, atol=1e-5)
    verification._verified.pop(model, None)


def test_verify_sets_the_number_of_verified_patches():
    model = tiny.model("llama")
    clean, corrupted = prompt_pair()
    options = dict(site="z", metric=METRIC, positions="all")  # 3 x 4 x 12 patches
    for share, count_patches in ((0, 0), (0.001, 2), (0.1, 14), (1, 144)):
        settings = tv.patch(model, clean, corrupted, verify=share, **options).settings
        assert settings["verified"] == count_patches
        assert settings["largest_difference"] < 1e-5
    with pytest.raises(TvlensError, match="verify=2: a share"):
        tv.patch(model, clean, corrupted, verify=2, **options)


def test_small_groups_and_lack_of_memory_keep_the_result(monkeypatch):
    model = tiny.model("llama")
    clean, corrupted = prompt_pair()
    options = dict(site="z", metric=METRIC, positions=[-3, -2, -1])
    whole = tv.patch(model, clean, corrupted, **options)
    torch.testing.assert_close(
        tv.patch(model, clean, corrupted, batch_tokens=1, **options).values, whole.values
    )
    tree_attention = sweep.tree_attention

    def run_out_of_memory(model, base, group):
        if len(group) > 2:
            raise RuntimeError("CUDA out of memory")
        return tree_attention(model, base, group)

    monkeypatch.setattr(sweep, "tree_attention", run_out_of_memory)
    torch.testing.assert_close(tv.patch(model, clean, corrupted, **options).values, whole.values)


def test_passes_contain_whole_layers_or_even_parts_of_one():
    fitting = sweep._count_fitting
    three = [(layer, 10) for layer in range(3) for _ in range(4)]
    assert fitting(three, 1000) == 12
    assert fitting(three, 100) == 8  # two layers, and not half of the third
    assert fitting(three, 39) == 2  # one layer in two even pieces
    assert fitting(three, 25) == 2
    assert fitting(three, 1) == 1
    assert fitting([(0, 500)], 100) == 1


def test_max_memory_makes_passes_smaller(monkeypatch):
    model = tiny.model("llama")
    clean, corrupted = prompt_pair()
    tree_attention, sizes = sweep.tree_attention, []

    def count_patches(model, base, group):
        sizes.append(len(group))
        return tree_attention(model, base, group)

    monkeypatch.setattr(sweep, "tree_attention", count_patches)
    options = dict(site="z", metric=METRIC, positions=[-3, -2, -1])
    tv.patch(model, clean, corrupted, **options)  # checks itself
    largest = []
    results = []
    for gigabytes in (None, 3e-4, 1e-6):
        sizes.clear()
        results.append(tv.patch(model, clean, corrupted, max_memory=gigabytes, **options))
        largest.append(max(sizes))
    assert largest[0] > largest[1] > largest[2] == 1
    for result in results[1:]:
        torch.testing.assert_close(result.values, results[0].values, rtol=1e-4, atol=1e-5)


def test_equal_activations_are_not_run(monkeypatch):
    model = tiny.model("gpt2")
    clean, corrupted = prompt_pair()
    corrupted[:, :-1] = clean[:, :-1]

    monkeypatch.setattr(sweep, "tree_attention", fail_if_called)
    monkeypatch.setattr(sweep, "batched", fail_if_called)
    result = tv.patch(model, clean, corrupted, site="resid_pre", positions=range(11), metric=METRIC)
    assert not result.effect.any()
