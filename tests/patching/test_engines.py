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
        result, said = architectures.sweep(model, name, site, layers, positions=range(3, 40, 4))
        error = architectures.largest_error(name, result, clean, corrupted, every=3)
        assert error < SITES[site], (name, site, error)
        # Its embedding is narrower than its states, which therefore cannot enter as inputs.
        assert bool(said) == (name == "OPT post-norm")
        expected = "batched" if name in BATCHED else "tree_attention"
        assert result.settings["engine"] == expected
        assert result.settings["verified"] >= 2


@pytest.mark.parametrize("name", ["GPT-Neo", "MPT"])
def test_verification_finds_index_masks_that_no_table_names(name, monkeypatch):
    """On one layer, where a check of one or two branches passed."""
    monkeypatch.setattr(families, "_MASKS_BY_INDEX", set())
    clean, corrupted = architectures.prompts()
    result, said = architectures.sweep(architectures.load(name), name, "resid_post", [2])
    assert len(said) == 1 and "cannot resume at a position" in said[0]
    assert result.settings["engine"] == "batched"
    assert architectures.largest_error(name, result, clean, corrupted) < ROUNDING


@pytest.mark.parametrize("name", ["GPT-J", "BLOOM", "Falcon", "MPT", "GPT-Neo", "Falcon-H1"])
def test_skipped_blocks_return_the_form_that_the_model_unpacks(name):
    from tvlens.models.hooks import skip_blocks

    model = architectures.load(name)
    tokens = architectures.prompts()[0]
    with torch.no_grad(), skip_blocks(model, range(1, 7)):
        found = model(tokens)
    kept = {}
    first, last = (f"blocks.{layer}.hook_resid_{side}" for layer, side in ((0, "post"), (7, "pre")))
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(first, lambda a, hook: kept.update(a=a))])
        true = model.run_with_hooks(tokens, fwd_hooks=[(last, lambda a, hook: kept["a"])])
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("name", ["GPT-J", "MPT", "Llama", "Gemma 3"])
def test_paths_to_a_high_receiver(name):
    """A receiver above layer 4: the effect of a path is what freezing all else between gives."""
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

    def keep(key):
        return lambda activation, hook: states.update({key: activation.clone()})

    z = [tv.Site("z", layer).hook(model) for layer in (1, 5)]
    q = receiver.hook(model)
    with torch.no_grad():
        model.run_with_hooks(clean, fwd_hooks=[(n, keep(n)) for n in z])
        model.run_with_hooks(corrupted, fwd_hooks=[(n, keep(n)) for n in frozen])
        for row, layer in enumerate((1, 5)):

            def send(activation, hook, source=states[z[row]]):
                activation = activation.clone()
                activation[:, :, 2] = source[:, :, 2]
                return activation

            between = [n for n in frozen if int(n.split(".")[1]) > layer]
            between.append(f"blocks.{layer}.hook_mlp_out")
            hooks = [(z[row], send), (q, keep("q"))]
            hooks += [(n, lambda a, hook, n=n: states[n]) for n in between]
            model.run_with_hooks(corrupted, fwd_hooks=hooks)

            def receive(activation, hook):
                activation = activation.clone()
                activation[:, :, 1] = states["q"][:, :, 1]
                return activation

            true = architectures.METRIC(model.run_with_hooks(corrupted, fwd_hooks=[(q, receive)]))
            torch.testing.assert_close(result.values[row, 0], true, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_the_fast_engine():
    for dtype in (torch.bfloat16, torch.float16):
        model = architectures.load("Llama", dtype)
        result, said = architectures.sweep(model, "Llama", "z", [1, 6], positions=[-1])
        assert result.settings["engine"] == "tree_attention" and not said


def test_infinite_logits_do_not_switch_verification_off(monkeypatch):
    """Half of the vocabulary at minus infinity, as some models mask what they never say."""
    model = architectures.load("GPT-J")
    linear = getattr(model.unembed, "original_component", None) or model.unembed
    linear.bias.data[64:] = -torch.inf
    real = engines.build_attention_masks
    # All branches see each other.
    monkeypatch.setattr(engines, "attention_masks", lambda m, b, *, like: real(m, b, like=like) * 0)
    clean, corrupted = architectures.prompts()
    result, said = architectures.sweep(model, "GPT-J", "resid_post", [1, 2], positions=[3, 20])
    assert said and result.settings["engine"] == "batched"
    monkeypatch.undo()
    model = architectures.load("GPT-J")
    model.unembed.original_component.bias.data[64:] = -torch.inf
    result, said = architectures.sweep(model, "GPT-J", "resid_post", [1, 2], positions=[3, 20])
    assert not said and result.settings["engine"] == "tree_attention"
    assert architectures.largest_error("GPT-J", result, clean, corrupted, every=1) < ROUNDING


@pytest.mark.parametrize("name", ["Qwen3-Next", "LFM2"])
def test_paths_in_a_hybrid_start_at_the_layers_with_heads(name):
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


def test_paths_are_refused_where_a_factor_follows_attention():
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
