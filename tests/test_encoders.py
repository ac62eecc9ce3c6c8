"""Encoders and classifiers: hosted exactly, padded without a trace, read out row by row."""

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


def output(found):
    return getattr(found, "logits", None) if hasattr(found, "logits") else found.last_hidden_state


def test_the_output_and_every_state_are_hugging_faces(kind):
    inputs = tiny.ragged(kind, (9, 9))
    inputs = inputs if isinstance(inputs, torch.Tensor) else torch.tensor(inputs)
    with torch.no_grad():
        wanted = hugging_face(kind)(inputs, output_hidden_states=True)
        got = tiny.model(kind)(inputs)
    torch.testing.assert_close(got, output(wanted), rtol=1e-4, atol=1e-5)
    states = tv.collect(tiny.model(kind), inputs, "resid_post", progress=False)
    for layer in range(3):
        torch.testing.assert_close(
            states[f"resid_post.{layer}"], wanted.hidden_states[layer + 1], rtol=1e-4, atol=1e-5
        )


def test_every_component_is_there(kind):
    assert set(available(tiny.model(kind))) == set(COMPONENTS)


def test_padding_changes_nothing(kind):
    model, inputs = tiny.model(kind), tiny.ragged(kind)
    together = tv.collect(model, inputs, BLOCKS, progress=False)
    logits = run(model, Batch.of(model, inputs))
    for i in range(len(inputs)):
        alone = tv.collect(model, inputs[i : i + 1], BLOCKS, progress=False)
        n = int(alone.lengths)
        for site, activation in alone.items():
            mine = together[site][i, :n]
            mine = mine[..., :n] if site.startswith("pattern") else mine
            torch.testing.assert_close(mine, activation[0], msg=f"{site} of input {i}")
        single = run(model, Batch.of(model, inputs[i : i + 1]))[0]
        torch.testing.assert_close(logits[i] if logits.ndim == 2 else logits[i, :n], single)


@pytest.mark.parametrize("kind", [k for k in tiny.KINDS if "classifier" in k])
def test_a_classifier_is_decided_by_its_hooked_states(kind):
    """Overwriting the first position of the last block decides the logits, as in Hugging Face."""
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


def test_classifiers_have_no_logits_at_positions():
    model = tiny.model("bert-classifier")
    batch = Batch.of(model, tiny.ragged("text"))
    with pytest.raises(TvlensError, match="one row of logits per input"):
        logits_at(model, batch, batch.positions(0))


@pytest.mark.parametrize("kind", ["bert-bare", "bert-classifier", "roberta-classifier"])
def test_a_folder_keeps_its_own_head(kind, tmp_path):
    """TransformerLens goes by the family, and would give a classifier a language model's head."""
    source = hugging_face(kind)
    source.save_pretrained(tmp_path / "mine")
    model = tv.load(tmp_path / "mine")
    tokens = torch.tensor(tiny.ragged("text", (7,)))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), output(source(tokens)), rtol=1e-4, atol=1e-5)
    assert tv.models.model_name(model) == "mine"


def test_positions_are_counted():
    assert tiny.model("roberta-bare").cfg.n_ctx == 94  # two are the padding's
    assert tiny.model("deit-classifier").cfg.n_ctx == 18  # a token more than ViT
    with pytest.raises(TvlensError, match="95 tokens, but the model's context is 94"):
        tv.collect(tiny.model("roberta-bare"), [[5] * 95], progress=False)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_readouts_see_real_positions_only(lengths, seed):
    states = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(lengths), 6, 3)))
    dirty = copy.deepcopy(states)
    for row, n in enumerate(lengths):
        dirty[row, n:] = torch.nan
    sizes = torch.tensor(lengths)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(first_token(dirty, sizes)[row], states[row, 0])
        torch.testing.assert_close(mean_token(dirty, sizes)[row], states[row, :n].mean(0))
        torch.testing.assert_close(last_token(dirty, sizes)[row], states[row, n - 1])


def test_readouts_by_name():
    assert readout("mean") is mean_token
    assert readout(first_token) is first_token
    with pytest.raises(TvlensError, match="unknown readout 'lst': did you mean 'last'"):
        readout("lst")
    with pytest.raises(TvlensError, match="input 1 has 7 positions"):
        mean_token(torch.zeros(2, 6, 3), torch.tensor([2, 7]))
