import warnings

import pytest
import tiny
import torch
from helpers import METRIC, patch_with_hooks, prompt_pair

import tvlens as tv
from tvlens.patching import engines, sweep, verification

pytestmark = pytest.mark.tl3


def test_verification_is_repeated_for_longer_prompts_and_larger_groups():
    model = tiny.model("llama")
    verification._verified.pop(model, None)
    key = ("tree_attention", "q", (torch.float32, "cpu"))
    for length, layers in ((6, [1]), (12, [1]), (8, "all")):
        clean, corrupted = prompt_pair(length)
        tv.patch(model, clean, corrupted, site="q", metric=METRIC, positions=-1, layers=layers)
        verified = verification._verified[model][key]
        assert (verified.length, verified.lowest, verified.highest) == (
            (length, 1, 1) if layers == [1] else (8, 0, 2)
        )


def test_verification_detects_a_mask_without_windows(monkeypatch):
    """Only the last block of this Gemma has full attention, for which such a mask is right."""
    model = tiny.model("gemma3")
    verification._verified.pop(model, None)
    attention_masks = engines.build_attention_masks
    monkeypatch.setattr(
        engines, "build_attention_masks", lambda *a, **o: attention_masks(*a, **o)["full_attention"]
    )
    clean, corrupted = prompt_pair()
    options = dict(site="attn_out", metric=METRIC, positions=-1)
    tv.patch(model, clean, corrupted, layers=-1, **options)
    with pytest.warns(UserWarning, match=r"cannot resume.*differs by"):
        result = tv.patch(model, clean, corrupted, layers=[0], **options)
    wanted = patch_with_hooks(model, clean, corrupted, "attn_out", 0, None, 11)
    torch.testing.assert_close(result.values[0], wanted, rtol=1e-4, atol=1e-5)
    verification._verified.pop(model, None)


def test_engine_that_fails_verification_is_replaced_with_a_warning(monkeypatch):
    model = tiny.model("llama")
    verification._verified.pop(model, None)
    for name in ("tree_attention", "batched"):
        engine = getattr(sweep, name)
        monkeypatch.setattr(sweep, name, lambda *a, engine=engine: 1.01 * engine(*a))
    clean, corrupted = prompt_pair()
    options = dict(site="z", metric=METRIC, positions=-1)
    with pytest.warns(UserWarning) as warnings_raised:
        result = tv.patch(model, clean, corrupted, **options)
    assert [str(w.message).split(" for ")[0] for w in warnings_raised] == [
        "LlamaForCausalLM cannot resume at a position",
        "LlamaForCausalLM cannot begin at a layer",
    ]
    assert result.settings["engine"] == "full_forward" and result.settings["verified"] == 0
    wanted = patch_with_hooks(model, clean, corrupted, "z", 1, 2, 11)
    torch.testing.assert_close(result.values[1, 2], wanted, rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning comes once
        tv.patch(model, clean, corrupted, **options)
    verification._verified.pop(model, None)
