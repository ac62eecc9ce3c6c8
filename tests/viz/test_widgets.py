"""Widgets: props of CircuitsVis, rounded numbers, escaped tokens."""

import json
import re

import circuitsvis
import numpy as np
import pytest
import torch
from circuitsvis.logits import token_log_probs
from circuitsvis.topk_tokens import topk_tokens
from viz_gallery import HOSTILE, widgets

from tvlens import viz
from tvlens.viz.arrays import round_floats

pytestmark = pytest.mark.no_arithmetic

TOKENS = ["a", " b", "\n"]


def read_props(rendered) -> dict:
    """Read the props from a page that CircuitsVis renders."""
    return json.loads(
        re.search(r"render\(\s*\S+,\s*\w+,\s*(.*)\s*\)\s*</script>", str(rendered))[1]
    )


def test_props_equal_those_of_circuitsvis():
    torch.manual_seed(0)
    # Numbers that rounding leaves alone, so that both sides must agree exactly.
    values = torch.randint(-50, 50, (3, 2, 4)).double() / 100
    pattern, ids = values.transpose(0, 1)[:, :, :3], torch.tensor([0, 2, 1])
    named = {"first_dimension_name": "Layer", "second_dimension_name": "Head"}
    pairs = [
        (
            viz.colored_tokens(TOKENS, values[:, 0, 0]),
            circuitsvis.tokens.colored_tokens(TOKENS, values[:, 0, 0]),
        ),
        (
            viz.colored_tokens_multi(TOKENS, values[:, 0], ["p", "q", "r", "s"]),
            circuitsvis.tokens.colored_tokens_multi(TOKENS, values[:, 0], ["p", "q", "r", "s"]),
        ),
        (
            viz.attention_heads(pattern, TOKENS, head_names=["0.1", "5.5"], causal=False),
            circuitsvis.attention.attention_heads(
                pattern, TOKENS, attention_head_names=["0.1", "5.5"], mask_upper_tri=False
            ),
        ),
        (
            viz.text_neuron_activations(TOKENS, values, neuron_name="Head"),
            circuitsvis.activations.text_neuron_activations(TOKENS, values, **named),
        ),
        (
            viz.token_log_probs(ids, values[:, 0, :3], TOKENS, top_k=2),
            token_log_probs(ids, values[:, 0, :3], TOKENS.__getitem__, top_k=2),
        ),
        (
            viz.topk_tokens(TOKENS, values.transpose(0, 1), top_k=3),
            topk_tokens([TOKENS], [values.transpose(0, 1).numpy()], max_k=3),
        ),
    ]
    for figure, rendered in pairs:
        assert figure.spec["props"] == read_props(rendered), figure.spec["element"]
        assert f"{figure.spec['element']}," in str(rendered)


def test_widgets_accept_tensors_arrays_and_lists():
    values = torch.tensor([0.5, -0.25, 1.0], dtype=torch.bfloat16, requires_grad=True)
    plain = [0.5, -0.25, 1.0]
    expected = viz.colored_tokens(TOKENS, plain)
    for equal_values in (values, np.array(plain), [torch.tensor(x) for x in plain], tuple(plain)):
        assert viz.colored_tokens(TOKENS, equal_values) == expected


def test_widget_numbers_have_four_significant_digits():
    figure = viz.colored_tokens(TOKENS, [0.123456, -1234.567, 1e-7 / 3])
    assert figure.spec["props"]["values"] == [0.1235, -1235, 3.333e-08]
    assert round_floats({"step": 12345.0, "count": 1234567, "on": True}) == {
        "step": 12345,
        "count": 1234567,
        "on": True,
    }


def test_widgets_leave_circuitsvis_unchanged():
    before = circuitsvis.tokens.render
    viz.colored_tokens(TOKENS, [0, 1, 2])
    assert circuitsvis.tokens.render is before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: viz.colored_tokens(TOKENS, [1.0, 2.0]), "3 tokens and 2 values"),
        (
            lambda: viz.colored_tokens_multi(TOKENS, torch.ones(3, 2), ["a"]),
            "1 labels and 2 columns of values",
        ),
        (
            lambda: viz.attention_heads(torch.ones(2, 3, 4), TOKENS),
            "3 tokens and 4 sources of pattern",
        ),
        (
            lambda: viz.attention_heads(torch.ones(2, 3, 3), TOKENS, head_names=["a"]),
            "1 head_names and 2 heads of pattern",
        ),
        (
            lambda: viz.token_log_probs([0, 1], torch.zeros(3, 3), TOKENS),
            "2 tokens and 3 rows of log_probs",
        ),
        (lambda: viz.token_log_probs([0, 3], torch.zeros(2, 3), TOKENS), "between 0 and 2"),
        (
            lambda: viz.text_neuron_activations(TOKENS, torch.ones(2, 1, 1)),
            "3 tokens and 2 positions of activations",
        ),
        (
            lambda: viz.text_neuron_activations(TOKENS, torch.ones(3, 2, 1), layer_labels=["a"]),
            "1 layer_labels and 2 layers of activations",
        ),
        (lambda: viz.topk_tokens(TOKENS, torch.ones(1, 4, 1)), "3 tokens and 4 tokens in"),
        (
            lambda: viz.colored_tokens(TOKENS, [0.0, float("nan"), 1.0]),
            "1 of 3 numbers in values are NaN or infinite, first at pos 1",
        ),
        (lambda: viz.colored_tokens(TOKENS, torch.ones(3, 1)), r"axes \[pos\], got shape \(3, 1\)"),
    ],
)
def test_widgets_refuse_inputs_of_other_lengths(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_token_log_probs_accepts_probability_zero():
    log_probs = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    props = viz.token_log_probs([0, 1], log_probs, ["a", "b"]).spec["props"]
    assert props["correctTokenLogProb"] == [-1000]
    assert props["correctTokenRank"] == [1]


def test_topk_tokens_keeps_only_the_tokens_it_lists():
    vocabulary = [f"w{i}" for i in range(1000)]
    scores = torch.arange(1000.0).reshape(1, 1000, 1)
    props = viz.topk_tokens(vocabulary, scores, top_k=2).spec["props"]
    words = props["tokens"][0]
    assert words == ["w0", "w1", "w998", "w999"]
    assert [words[i] for ((i,), (j,)) in props["topkIdxs"][0] for i in (i, j)] == ["w999", "w998"]
    assert [words[i] for ((i,), (j,)) in props["bottomkIdxs"][0] for i in (i, j)] == ["w1", "w0"]


@pytest.mark.parametrize("element", list(widgets()))
def test_hostile_tokens_are_escaped(element):
    figure = widgets()[element]
    assert figure.spec["element"] == element
    text = figure.fragment()
    inside = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    assert "<" not in inside
    assert json.loads(inside) == figure.spec
    assert "<img" not in text
    # CircuitsVis sets tokens as innerHTML: nothing in the props may start a tag or an entity.
    assert not re.search(r"<[A-Za-z/!?]|&[A-Za-z#]", json.dumps(figure.spec["props"]))
    props = json.dumps(figure.spec["props"], ensure_ascii=False).replace("\u2060", "")
    assert HOSTILE in props
