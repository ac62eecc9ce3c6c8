"""Encoders and classifiers of Hugging Face as TransformerLens models."""

import copy

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tvlens as tv
from tvlens import TvlensError
from tvlens.models import Batch, first_token, last_token, logits_at, mean_token, readout, run
from tvlens.sites import COMPONENTS, available

pytestmark = pytest.mark.tl3

BLOCKS = ["attn_out", "mlp_out", "pattern", "q", "resid_mid", "resid_post", "z"]


@pytest.fixture(params=tiny.KINDS)
def kind(request):
    return request.param


def hugging_face(kind):
    torch.manual_seed(0)
    return tiny._hugging_face(kind).eval()


def get_output(result):
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


def test_output_and_states_match_hugging_face(kind):
    inputs = tiny.ragged(kind, (9, 9))
    inputs = inputs if isinstance(inputs, torch.Tensor) else torch.tensor(inputs)
    with torch.no_grad():
        expected = hugging_face(kind)(inputs, output_hidden_states=True)
        activations = tiny.model(kind)(inputs)
    torch.testing.assert_close(activations, get_output(expected), rtol=1e-4, atol=1e-5)
    states = tv.collect(tiny.model(kind), inputs, "resid_post", progress=False)
    for layer in range(3):
        torch.testing.assert_close(
            states[f"resid_post.{layer}"], expected.hidden_states[layer + 1], rtol=1e-4, atol=1e-5
        )


def test_every_component_is_available(kind):
    assert set(available(tiny.model(kind))) == set(COMPONENTS)


def test_padding_does_not_change_states_and_logits(kind):
    model, inputs = tiny.model(kind), tiny.ragged(kind)
    together = tv.collect(model, inputs, BLOCKS, progress=False)
    logits = run(model, Batch.of(model, inputs))
    for i in range(len(inputs)):
        alone = tv.collect(model, inputs[i : i + 1], BLOCKS, progress=False)
        n = int(alone.lengths)
        for site, activation in alone.items():
            padded = together[site][i, :n]
            padded = padded[..., :n] if site.startswith("pattern") else padded
            torch.testing.assert_close(padded, activation[0], msg=f"{site} of input {i}")
        single = run(model, Batch.of(model, inputs[i : i + 1]))[0]
        torch.testing.assert_close(logits[i] if logits.ndim == 2 else logits[i, :n], single)


@pytest.mark.parametrize("kind", [k for k in tiny.KINDS if "classifier" in k])
def test_hooks_on_the_last_block_change_the_logits_of_classifiers(kind):
    """The logits depend on the first position of the last block only, as in Hugging Face."""
    model, inputs = tiny.model(kind), tiny.ragged(kind)
    batch = Batch.of(model, inputs)
    before = run(model, batch)

    def overwrite(state, hook):
        state = state.clone()
        state[:, 0] = 3.0 * torch.arange(state.shape[-1]) / state.shape[-1]
        return state

    after = run(model, batch, hooks=[("blocks.2.hook_resid_post", overwrite)])
    assert before.shape == after.shape == (3, 5)
    torch.testing.assert_close(after, after[:1].expand(3, -1))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(run(model, batch), before)


def test_logits_at_refuses_classifiers():
    model = tiny.model("bert-classifier")
    batch = Batch.of(model, tiny.ragged("text"))
    with pytest.raises(TvlensError, match="one row of logits per input"):
        logits_at(model, batch, batch.positions(0))


@pytest.mark.parametrize("kind", ["bert-bare", "bert-classifier", "roberta-classifier"])
def test_load_keeps_the_head_of_a_folder(kind, tmp_path):
    """TransformerLens chooses by family, which would give a classifier a language model's head."""
    source = hugging_face(kind)
    source.save_pretrained(tmp_path / "mine")
    model = tv.load(tmp_path / "mine")
    tokens = torch.tensor(tiny.ragged("text", (7,)))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), get_output(source(tokens)), rtol=1e-4, atol=1e-5)
    assert tv.models.model_name(model) == "mine"


def test_context_length_excludes_reserved_positions():
    assert tiny.model("roberta-bare").cfg.n_ctx == 94  # two are the padding's
    assert tiny.model("deit-classifier").cfg.n_ctx == 18  # a token more than ViT
    with pytest.raises(TvlensError, match="95 tokens, but the model's context is 94"):
        tv.collect(tiny.model("roberta-bare"), [[5] * 95], progress=False)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_readouts_ignore_padding(lengths, seed):
    states = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(lengths), 6, 3)))
    dirty = copy.deepcopy(states)
    for row, n in enumerate(lengths):
        dirty[row, n:] = torch.nan
    sizes = torch.tensor(lengths)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(first_token(dirty, sizes)[row], states[row, 0])
        torch.testing.assert_close(mean_token(dirty, sizes)[row], states[row, :n].mean(0))
        torch.testing.assert_close(last_token(dirty, sizes)[row], states[row, n - 1])


def test_readout_resolves_names_and_functions():
    assert readout("mean") is mean_token
    assert readout(first_token) is first_token
    with pytest.raises(TvlensError, match="unknown readout 'lst': did you mean 'last'"):
        readout("lst")
    with pytest.raises(TvlensError, match="input 1 has 7 positions"):
        mean_token(torch.zeros(2, 6, 3), torch.tensor([2, 7]))
