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


def shaken(config, seed=0):
    """A model whose every weight is far from its start: norms, biases and all."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model


def read_by(config, batch=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    if config.vocab:
        return torch.randint(0, config.vocab, (batch, config.context), generator=generator)
    return torch.randn(batch, config.context, config.inputs + 1, generator=generator)


EVERY = itertools.product(
    ("rotary", "learned"), ("rms", "layer"), (True, False), ("silu", "gelu"), ("vocab", "inputs")
)


@pytest.mark.parametrize(("positions", "norm", "final_norm", "activation", "reads"), EVERY)
def test_the_hooked_model_computes_the_same(positions, norm, final_norm, activation, reads):
    choices = dict(positions=positions, norm=norm, final_norm=final_norm, activation=activation)
    config = TransformerConfig(**SIZES, **choices, **{reads: 5})
    plain = shaken(config)
    model = to_transformer_lens(config, plain.state_dict())
    inputs = read_by(config)
    with torch.no_grad():
        # Twenty float32 roundings of logits, of which the largest are about 1.
        torch.testing.assert_close(model(inputs), plain(inputs), rtol=1e-4, atol=1e-4)
        twin = copy.deepcopy(model)
        twin.load_state_dict({k: torch.zeros_like(v) for k, v in twin.state_dict().items()})
        assert twin(inputs).abs().max() == 0  # a copy reads its own weights


def test_rotation_is_exact_far_from_the_start():
    config = TransformerConfig(vocab=8, context=192, layers=1, d_model=16, heads=2)
    plain = shaken(config)
    tokens = read_by(config)
    with torch.no_grad():
        model = to_transformer_lens(config, plain.state_dict())
        torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-5, atol=1e-5)


def textbook(config, plain):
    """The encoder that comes with PyTorch, under a causal mask, with the same weights."""
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


def test_the_plain_model_is_the_textbook_one():
    config = TransformerConfig(
        **SIZES, vocab=7, positions="learned", norm="layer", final_norm=True, activation="gelu"
    )
    plain = shaken(config)
    tokens = read_by(config)
    mask = nn.Transformer.generate_square_subsequent_mask(config.context)
    states = plain.embed(tokens) + plain.position.weight
    states = textbook(config, plain)(states, mask=mask, is_causal=True)
    torch.testing.assert_close(
        plain(tokens), plain.unembed(plain.final_norm(states)), rtol=1e-5, atol=1e-5
    )


def test_rotary_attention_sees_distances_only():
    """Shifting the sequence changes nothing: the score of two tokens depends on their distance."""
    config = TransformerConfig(vocab=5, context=24, layers=1, d_model=16, heads=1)
    plain = shaken(config)
    short = torch.tensor([[3, 1, 4, 1]])
    kept = plain.rotation
    with torch.no_grad():
        here = plain(short)
        plain.rotation = kept[7:]
        torch.testing.assert_close(plain(short), here, rtol=1e-4, atol=1e-5)
        plain.rotation = kept[::2]
        assert not torch.allclose(plain(short), here, atol=1e-3)


def test_no_position_sees_what_comes_later():
    config = TransformerConfig(**SIZES, vocab=7)
    plain = shaken(config)
    tokens = read_by(config)
    other = tokens.clone()
    other[:, 10:] = (other[:, 10:] + 1) % 7
    with torch.no_grad():
        one, two = plain(tokens), plain(other)
    torch.testing.assert_close(one[:, :10], two[:, :10], rtol=1e-5, atol=1e-6)
    assert (one[:, 10:] - two[:, 10:]).abs().amax() > 1e-2


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_sites_and_hooks_work_on_the_hooked_model(positions):
    config = TransformerConfig(**SIZES, vocab=7, positions=positions)
    plain = shaken(config)
    model = to_transformer_lens(config, plain.state_dict(), name="dice")
    assert model.cfg.model_name == "dice"
    tokens = read_by(config)
    states = plain.embed(tokens)
    states = states if plain.position is None else states + plain.position.weight
    found = tv.collect(model, tokens.tolist(), ["resid_post", "pattern", "z"], progress=False)
    for layer, block in enumerate(plain.blocks):
        states = block(states, plain.rotation)
        torch.testing.assert_close(
            found[f"resid_post.{layer}"], states.detach(), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(found["pattern.1"].sum(-1), torch.ones(3, 24, 4))
    # No final norm stands between the last state and the logits, and patches are read back.
    zero = (Site("resid_post", 1).hook(model), lambda state, hook: torch.zeros_like(state))
    with torch.no_grad():
        assert model.run_with_hooks(tokens, fwd_hooks=[zero]).abs().max() == 0
        flat = (Site("pattern", 0).hook(model), lambda pattern, hook: pattern * 0)
        assert not torch.allclose(model.run_with_hooks(tokens, fwd_hooks=[flat]), model(tokens))


def test_patching_a_trained_shape_takes_the_fast_path():
    """`patch` compares itself with a full forward, and a warning is an error in these tests."""
    config = TransformerConfig(**SIZES, vocab=7)
    model = to_transformer_lens(config, shaken(config).state_dict())
    clean, corrupted = read_by(config, seed=1), read_by(config, seed=2)
    result = tv.patch(
        model, clean, corrupted, site="resid_post", positions=-1, metric=tv.logit_difference(1, 2)
    )
    torch.testing.assert_close(result.values[-1], result.clean, rtol=1e-4, atol=1e-5)


def test_weights_of_another_shape():
    weights = Transformer(TransformerConfig(**SIZES, vocab=7)).state_dict()
    with pytest.raises(TvlensError, match="do not fit"):
        to_transformer_lens(TransformerConfig(**SIZES, vocab=8), weights)


def test_a_vector_is_a_mixture_of_rows():
    """Reading one-hot vectors is reading tokens, also at the hooked model's embedding."""
    config = TransformerConfig(**SIZES, inputs=4)
    plain = shaken(config)
    tokens = torch.randint(0, 5, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain(F.one_hot(tokens, 5).float()), plain(tokens))
        vectors = read_by(config)
        _, cache = to_transformer_lens(config, plain.state_dict()).run_with_cache(vectors)
        name = next(n for n in ("embed.hook_out", "hook_embed") if n in cache)
        torch.testing.assert_close(cache[name], vectors @ plain.embed.weight)


def test_interleaved_pairs():
    inputs, targets = torch.randn(2, 3, 4), torch.randn(2, 3)
    vectors = interleave_pairs(inputs, targets)
    assert vectors.shape == (2, 6, 5)
    assert torch.equal(vectors[:, ::2, :4], inputs)
    assert torch.equal(vectors[:, 1::2, 4], targets)
    assert vectors[:, ::2, 4].abs().sum() == 0 and vectors[:, 1::2, :4].abs().sum() == 0


def test_sizes_of_the_paper_and_seeds():
    paper = Transformer(TransformerConfig(vocab=8, context=192))
    count = sum(weight.numel() for weight in paper.parameters())
    assert count == 6 * (4 * 128 * 128 + 4 * 128 + 2 * 128 * 512 + 640 + 2 * 128) + 2 * 8 * 128
    config = TransformerConfig(**SIZES, vocab=7)
    same, again, other = (Transformer(config, seed=s).unembed.weight for s in (1, 1, 2))
    assert torch.equal(same, again) and not torch.equal(same, other)


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
def test_shapes_that_cannot_be(options, message):
    with pytest.raises(TvlensError, match=message):
        TransformerConfig(**SIZES | options)


def test_beyond_the_context():
    with pytest.raises(TvlensError, match="25 positions, but the context is 24"):
        Transformer(TransformerConfig(**SIZES, vocab=3))(torch.zeros(1, 25, dtype=torch.long))


def test_states_of_a_model_that_reads_vectors():
    config = TransformerConfig(context=9, inputs=4, layers=2, d_model=16, heads=2)
    plain = Transformer(config, seed=1)
    model = to_transformer_lens(config, plain.state_dict())
    vectors = torch.randn(3, 9, 5)
    found = tv.collect(model, vectors, "resid_post", positions=[2, -1], batch_size=2)
    with torch.no_grad():
        _, cache = model.run_with_cache(vectors)
    wanted = cache[tv.Site("resid_post", 1).hook(model)][:, [2, 8]]
    torch.testing.assert_close(found["resid_post.1"], wanted)
