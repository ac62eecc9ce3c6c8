"""`tv.patch` against plain hooks on Hugging Face models of eight layers, beyond local windows."""

import copy

import pytest
import torch

import tvlens as tv
from benchmarks import architectures
from tvlens import TvlensError
from tvlens.models import families
from tvlens.patching import engines

# float32 rounding over eight layers, as a share of the largest effect. Where a window, a mask or
# a skipped block is wrong, the difference is as large as the effects themselves.
ROUNDING = 1e-4
# Heads matter less than the whole stream, so that rounding is a larger share of their effects.
SITES = {"resid_post": ROUNDING, "z": 10 * ROUNDING}

# Masks by index, recurrent layers, states that look both ways, an embedding of its own width.
BATCHED = ["GPT-Neo", "MPT", "BLOOM", "Qwen3-Next", "Qwen3.5", "LFM2", "Falcon-H1"]
BATCHED += ["BERT", "OPT post-norm"]


# Built as another one of the list, for what patching runs: `python -m benchmarks architectures` has
# these too.
ALIKE = {"GPT-BigCode", "CodeGen", "Qwen2", "Qwen2-MoE", "Qwen3-MoE", "OLMo", "OLMoE", "Qwen3.5"}
ALIKE |= {"StableLM", "Granite", "GLM", "SmolLM3", "Cohere", "Gemma", "OLMo 3", "StarCoder2"}


@pytest.mark.parametrize("name", [n for n in architectures.ARCHITECTURES if n not in ALIKE])
def test_patch_equals_plain_hooks(name):
    clean, corrupted = architectures.prompts()
    model = architectures.load(name)
    for site, layers in (("resid_post", [2, 6]), ("z", [5])):
        # A group holds more tokens than the prompt and its windows.
        result, warned = architectures.sweep(model, name, site, layers, positions=range(3, 40, 4))
        error = architectures.largest_error(name, result, clean, corrupted, every=3)
        assert error < SITES[site], (name, site, error)
        # Its embedding is narrower than its states, which therefore cannot enter as inputs.
        assert bool(warned) == (name == "OPT post-norm")
        expected = "batched" if name in BATCHED else "tree_attention"
        assert result.settings["engine"] == expected
        assert result.settings["verified"] >= 2


@pytest.mark.parametrize("name", ["GPT-Neo", "MPT"])
def test_verification_detects_index_masks_outside_the_table(name, monkeypatch):
    """A sweep of one layer, for which a check of two branches would pass."""
    monkeypatch.setattr(families, "_MASKS_BY_INDEX", set())
    clean, corrupted = architectures.prompts()
    result, warned = architectures.sweep(architectures.load(name), name, "resid_post", [2])
    assert len(warned) == 1 and "cannot resume at a position" in warned[0]
    assert result.settings["engine"] == "batched"
    assert architectures.largest_error(name, result, clean, corrupted) < ROUNDING


@pytest.mark.parametrize("name", ["GPT-J", "BLOOM", "Falcon", "MPT", "GPT-Neo", "Falcon-H1"])
def test_skip_blocks_keeps_the_output_format_of_blocks(name):
    from tvlens.models.hooks import skip_blocks

    model = architectures.load(name)
    tokens = architectures.prompts()[0]
    with torch.no_grad(), skip_blocks(model, range(1, 7)):
        logits = model(tokens)
    source = {}
    first, last = (f"blocks.{layer}.hook_resid_{side}" for layer, side in ((0, "post"), (7, "pre")))
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(first, lambda a, hook: source.update(a=a))])
        expected = model.run_with_hooks(tokens, fwd_hooks=[(last, lambda a, hook: source["a"])])
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("name", ["GPT-J", "MPT", "Llama", "Gemma 3"])
def test_patch_paths_to_a_high_receiver_equals_frozen_hooks(name):
    """The reference freezes everything between sender and receiver."""
    model = architectures.load(name)
    clean, corrupted = architectures.prompts(batch=1)
    receiver = tv.Site("q", 6, head=1)
    result = tv.patch_paths(
        model,
        clean,
        corrupted,
        receiver=receiver,
        layers=[1, 5],
        heads=[2],
        metric=architectures.METRIC,
    )
    frozen = [f"blocks.{l}.hook_{part}" for l in range(6) for part in ("attn_out", "mlp_out")]
    states = {}

    def store(key):
        return lambda activation, hook: states.update({key: activation.clone()})

    z = [tv.Site("z", layer).hook(model) for layer in (1, 5)]
    q = receiver.hook(model)
    with torch.no_grad():
        model.run_with_hooks(clean, fwd_hooks=[(n, store(n)) for n in z])
        model.run_with_hooks(corrupted, fwd_hooks=[(n, store(n)) for n in frozen])
        for row, layer in enumerate((1, 5)):

            def send(activation, hook, source=states[z[row]]):
                activation = activation.clone()
                activation[:, :, 2] = source[:, :, 2]
                return activation

            between = [n for n in frozen if int(n.split(".")[1]) > layer]
            between.append(f"blocks.{layer}.hook_mlp_out")
            hooks = [(z[row], send), (q, store("q"))]
            hooks += [(n, lambda a, hook, n=n: states[n]) for n in between]
            model.run_with_hooks(corrupted, fwd_hooks=hooks)

            def receive(activation, hook):
                activation = activation.clone()
                activation[:, :, 1] = states["q"][:, :, 1]
                return activation

            expected = architectures.METRIC(
                model.run_with_hooks(corrupted, fwd_hooks=[(q, receive)])
            )
            torch.testing.assert_close(result.values[row, 0], expected, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_the_fast_engine():
    for dtype in (torch.bfloat16, torch.float16):
        model = architectures.load("Llama", dtype)
        result, warned = architectures.sweep(model, "Llama", "z", [1, 6], positions=[-1])
        assert result.settings["engine"] == "tree_attention" and not warned


def test_verification_works_with_infinite_logits(monkeypatch):
    """Half of the vocabulary has logits of minus infinity, as in models with masked tokens."""
    model = architectures.load("GPT-J")
    linear = getattr(model.unembed, "original_component", None) or model.unembed
    linear.bias.data[64:] = -torch.inf
    attention_masks = engines.build_attention_masks
    # All branches see each other.
    monkeypatch.setattr(
        engines, "build_attention_masks", lambda m, b, *, like: attention_masks(m, b, like=like) * 0
    )
    clean, corrupted = architectures.prompts()
    result, warned = architectures.sweep(model, "GPT-J", "resid_post", [1, 2], positions=[3, 20])
    assert warned and result.settings["engine"] == "batched"
    monkeypatch.undo()
    model = architectures.load("GPT-J")
    model.unembed.original_component.bias.data[64:] = -torch.inf
    result, warned = architectures.sweep(model, "GPT-J", "resid_post", [1, 2], positions=[3, 20])
    assert not warned and result.settings["engine"] == "tree_attention"
    assert architectures.largest_error("GPT-J", result, clean, corrupted, every=1) < ROUNDING


@pytest.mark.parametrize("name", ["Qwen3-Next", "LFM2"])
def test_patch_paths_of_hybrids_has_the_layers_with_heads(name):
    clean, corrupted = architectures.prompts()
    result = tv.patch_paths(
        architectures.load(name),
        clean,
        corrupted,
        receiver="logits",
        heads=[0],
        positions=-1,
        metric=architectures.METRIC,
    )
    assert result.coordinates["layer"] == architectures.attention_layers(name)


def test_patch_paths_refuses_a_factor_after_attention():
    source = copy.deepcopy(architectures.source("Falcon-H1"))
    for block in source.model.layers:
        block.attn_out_multiplier = 0.3
    model = tv.load(source)
    clean, corrupted = architectures.prompts()
    options = dict(receiver="logits", metric=architectures.METRIC, layers=[3], positions=-1)
    with pytest.raises(
        TvlensError, match="changes the output of attention before it reaches the residual stream"
    ):
        tv.patch_paths(model, clean, corrupted, **options)
    tv.patch_paths(architectures.load("Falcon-H1"), clean, corrupted, **options)
