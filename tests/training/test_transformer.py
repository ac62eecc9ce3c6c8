import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tvlens as tv
from tvlens import Site, TvlensError
from tvlens.training import Transformer, TransformerConfig, interleave_pairs, to_transformer_lens

pytestmark = pytest.mark.tl3

SIZES = dict(context=24, layers=2, d_model=32, heads=4)


def perturbed_transformer(config, seed=0):
    """A transformer whose weights, biases and norms are perturbed."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model


def sample_inputs(config, batch=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    if config.vocab:
        return torch.randint(0, config.vocab, (batch, config.context), generator=generator)
    return torch.randn(batch, config.context, config.inputs + 1, generator=generator)


CHOICES = list(
    itertools.product(
        ("rotary", "learned"),
        ("rms", "layer"),
        (True, False),
        ("silu", "gelu"),
        ("vocab", "inputs"),
    )
)


@pytest.mark.parametrize(("positions", "norm", "final_norm", "activation", "reads"), CHOICES)
def test_to_transformer_lens_keeps_the_output(positions, norm, final_norm, activation, reads):
    choices = dict(positions=positions, norm=norm, final_norm=final_norm, activation=activation)
    config = TransformerConfig(**SIZES, **choices, **{reads: 5})
    plain = perturbed_transformer(config)
    model = to_transformer_lens(config, plain.state_dict())
    inputs = sample_inputs(config)
    with torch.no_grad():
        # Twenty float32 roundings of logits, of which the largest are about 1.
        torch.testing.assert_close(model(inputs), plain(inputs), rtol=1e-4, atol=1e-4)
        copied = copy.deepcopy(model)
        copied.load_state_dict({k: torch.zeros_like(v) for k, v in copied.state_dict().items()})
        assert copied(inputs).abs().max() == 0  # a copy reads its own weights


def test_rotary_embedding_is_exact_at_late_positions():
    config = TransformerConfig(vocab=8, context=192, layers=1, d_model=16, heads=2)
    plain = perturbed_transformer(config)
    tokens = sample_inputs(config)
    with torch.no_grad():
        model = to_transformer_lens(config, plain.state_dict())
        torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-5, atol=1e-5)


def build_pytorch_encoder(config, plain):
    """Build PyTorch's own encoder with the same weights."""
    layer = nn.TransformerEncoderLayer(
        config.d_model, config.heads, config.d_mlp, 0.0, F.gelu, batch_first=True, norm_first=True
    )
    stack = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
    weights = {}
    names = {"qkv.": "self_attn.in_proj_", "attn_out.": "self_attn.out_proj."}
    names |= {"mlp_in.": "linear1.", "mlp_out.": "linear2."}
    for key, value in plain.blocks.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        weights[f"layers.{key}"] = value
    stack.load_state_dict(weights)
    return stack


def test_transformer_equals_the_pytorch_encoder():
    config = TransformerConfig(
        **SIZES, vocab=7, positions="learned", norm="layer", final_norm=True, activation="gelu"
    )
    plain = perturbed_transformer(config)
    tokens = sample_inputs(config)
    mask = nn.Transformer.generate_square_subsequent_mask(config.context)
    states = plain.embed(tokens) + plain.position.weight
    states = build_pytorch_encoder(config, plain)(states, mask=mask, is_causal=True)
    torch.testing.assert_close(
        plain(tokens), plain.unembed(plain.final_norm(states)), rtol=1e-5, atol=1e-5
    )


def test_rotary_attention_depends_on_distances_only():
    """A shift of all positions does not change the output."""
    config = TransformerConfig(vocab=5, context=24, layers=1, d_model=16, heads=1)
    plain = perturbed_transformer(config)
    short = torch.tensor([[3, 1, 4, 1]])
    rotation = plain.rotation
    with torch.no_grad():
        unshifted = plain(short)
        plain.rotation = rotation[7:]
        torch.testing.assert_close(plain(short), unshifted, rtol=1e-4, atol=1e-5)
        plain.rotation = rotation[::2]
        assert not torch.allclose(plain(short), unshifted, atol=1e-3)


def test_transformer_is_causal():
    config = TransformerConfig(**SIZES, vocab=7)
    plain = perturbed_transformer(config)
    tokens = sample_inputs(config)
    other = tokens.clone()
    other[:, 10:] = (other[:, 10:] + 1) % 7
    with torch.no_grad():
        one, two = plain(tokens), plain(other)
    torch.testing.assert_close(one[:, :10], two[:, :10], rtol=1e-5, atol=1e-6)
    assert (one[:, 10:] - two[:, 10:]).abs().amax() > 1e-2


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_sites_and_hooks_work_after_to_transformer_lens(positions):
    config = TransformerConfig(**SIZES, vocab=7, positions=positions)
    plain = perturbed_transformer(config)
    model = to_transformer_lens(config, plain.state_dict(), name="dice")
    assert model.cfg.model_name == "dice"
    tokens = sample_inputs(config)
    states = plain.embed(tokens)
    states = states if plain.position is None else states + plain.position.weight
    activations = tv.collect(model, tokens.tolist(), ["resid_post", "pattern", "z"], progress=False)
    for layer, block in enumerate(plain.blocks):
        states = block(states, plain.rotation)
        torch.testing.assert_close(
            activations[f"resid_post.{layer}"], states.detach(), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(activations["pattern.1"].sum(-1), torch.ones(3, 24, 4))
    # No final norm stands between the last state and the logits, and patches are read back.
    zero = (Site("resid_post", 1).hook(model), lambda state, hook: torch.zeros_like(state))
    with torch.no_grad():
        assert model.run_with_hooks(tokens, fwd_hooks=[zero]).abs().max() == 0
        flat = (Site("pattern", 0).hook(model), lambda pattern, hook: pattern * 0)
        assert not torch.allclose(model.run_with_hooks(tokens, fwd_hooks=[flat]), model(tokens))


def test_patch_of_a_transformer_matches_its_clean_run():
    """`patch` verifies itself against a full forward; a failure is a warning, here an error."""
    config = TransformerConfig(**SIZES, vocab=7)
    model = to_transformer_lens(config, perturbed_transformer(config).state_dict())
    clean, corrupted = sample_inputs(config, seed=1), sample_inputs(config, seed=2)
    result = tv.patch(
        model, clean, corrupted, site="resid_post", positions=-1, metric=tv.logit_difference(1, 2)
    )
    torch.testing.assert_close(result.values[-1], result.clean, rtol=1e-4, atol=1e-5)


def test_to_transformer_lens_refuses_weights_of_another_shape():
    weights = Transformer(TransformerConfig(**SIZES, vocab=7)).state_dict()
    with pytest.raises(TvlensError, match="do not fit"):
        to_transformer_lens(TransformerConfig(**SIZES, vocab=8), weights)


def test_vector_inputs_are_mixtures_of_embedding_rows():
    """One-hot vectors give the output of their tokens, and embeddings are linear in vectors."""
    config = TransformerConfig(**SIZES, inputs=4)
    plain = perturbed_transformer(config)
    tokens = torch.randint(0, 5, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain(F.one_hot(tokens, 5).float()), plain(tokens))
        vectors = sample_inputs(config)
        _, cache = to_transformer_lens(config, plain.state_dict()).run_with_cache(vectors)
        name = next(n for n in ("embed.hook_out", "hook_embed") if n in cache)
        torch.testing.assert_close(cache[name], vectors @ plain.embed.weight)


def test_interleaved_alternates_inputs_and_targets():
    inputs, targets = torch.randn(2, 3, 4), torch.randn(2, 3)
    vectors = interleave_pairs(inputs, targets)
    assert vectors.shape == (2, 6, 5)
    assert torch.equal(vectors[:, ::2, :4], inputs)
    assert torch.equal(vectors[:, 1::2, 4], targets)
    assert vectors[:, ::2, 4].abs().sum() == 0 and vectors[:, 1::2, :4].abs().sum() == 0


def test_transformer_has_the_published_size_and_depends_on_its_seed():
    paper = Transformer(TransformerConfig(vocab=8, context=192))
    count = sum(weight.numel() for weight in paper.parameters())
    assert count == 6 * (4 * 128 * 128 + 4 * 128 + 2 * 128 * 512 + 640 + 2 * 128) + 2 * 8 * 128
    config = TransformerConfig(**SIZES, vocab=7)
    first, repeated, other = (Transformer(config, seed=s).unembed.weight for s in (1, 1, 2))
    assert torch.equal(first, repeated) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "either vocab, for tokens, or inputs"),
        (dict(vocab=3, inputs=3), "either vocab, for tokens, or inputs"),
        (dict(vocab=3, layers=0), "layers must be at least 1, not 0"),
        (dict(vocab=3, heads=3), "d_model 32 does not divide into 3 heads"),
        (dict(vocab=3, heads=32), "even width, not 1"),
        (dict(vocab=3, positions="rotery"), "did you mean 'rotary'"),
        (dict(vocab=3, norm="batch"), "unknown norm 'batch'"),
        (dict(vocab=3, activation="gleu"), "did you mean 'gelu'"),
    ],
)
def test_shape_refuses_invalid_sizes(options, message):
    with pytest.raises(TvlensError, match=message):
        TransformerConfig(**SIZES | options)


def test_transformer_refuses_inputs_beyond_the_context():
    with pytest.raises(TvlensError, match="25 positions, but the context is 24"):
        Transformer(TransformerConfig(**SIZES, vocab=3))(torch.zeros(1, 25, dtype=torch.long))


def test_collect_reads_states_of_vector_inputs():
    config = TransformerConfig(context=9, inputs=4, layers=2, d_model=16, heads=2)
    plain = Transformer(config, seed=1)
    model = to_transformer_lens(config, plain.state_dict())
    vectors = torch.randn(3, 9, 5)
    activations = tv.collect(model, vectors, "resid_post", positions=[2, -1], batch_size=2)
    with torch.no_grad():
        _, cache = model.run_with_cache(vectors)
    wanted = cache[tv.Site("resid_post", 1).hook(model)][:, [2, 8]]
    torch.testing.assert_close(activations["resid_post.1"], wanted)
