import warnings

import numpy as np
import pytest
import scipy.stats
import tiny
import torch
from helpers import METRIC, prompt_pair

import tvlens as tv
from tvlens import TvlensError

pytestmark = pytest.mark.tl3

A, B = 7, 11


def test_metrics_equal_their_definitions():
    logits = torch.randn(4, 1, 50)
    last = logits[:, -1]
    ids = torch.tensor([1, 2, 3, 4])
    rows = torch.arange(4)
    torch.testing.assert_close(tv.logit_difference(ids, 0)(logits), last[rows, ids] - last[:, 0])
    torch.testing.assert_close(tv.probability(ids)(logits), last.softmax(-1)[rows, ids])
    torch.testing.assert_close(tv.log_probability(5)(logits), last.log_softmax(-1)[:, 5])
    order = last.argsort(-1, descending=True)
    assert tv.rank(ids)(logits).tolist() == [
        (order[i] == ids[i]).nonzero().item() for i in range(4)
    ]
    assert tv.accuracy(last.argmax(-1))(logits).tolist() == [1, 1, 1, 1]
    other = torch.randn(4, 50)
    wanted = scipy.stats.entropy(other.softmax(-1), last.softmax(-1), axis=-1)
    np.testing.assert_allclose(tv.kl_divergence(other)(logits), wanted, rtol=1e-4)
    with pytest.raises(TvlensError, match="3 token ids for 4 examples"):
        tv.probability([1, 2, 3])(logits)
    with pytest.raises(TvlensError, match="outside the vocabulary of 50"):
        tv.probability(50)(logits)


def test_metrics_can_read_earlier_positions():
    model = tiny.model("llama")
    clean, corrupted = prompt_pair()

    def weigh_earlier_positions(logits):
        return logits[:, 0, A] + 2 * logits[:, 1, A]

    weigh_earlier_positions.positions = (4, -1)
    result = tv.patch(
        model,
        clean,
        corrupted,
        site="resid_pre",
        metric={"early": weigh_earlier_positions, "last": METRIC},
    )
    assert result.axes == ("metric", "layer", "position")
    with torch.no_grad():
        source = model.run_with_cache(clean)[1]["blocks.1.hook_resid_pre"]
        for position in (2, 8):

            def write(activation, hook, position=position):
                activation = activation.clone()
                activation[:, position] = source[:, position]
                return activation

            logits = model.run_with_hooks(corrupted, fwd_hooks=[("blocks.1.hook_resid_pre", write)])
            wanted = logits[:, 4, A] + 2 * logits[:, -1, A]
            torch.testing.assert_close(
                result["early"].values[1, position], wanted, rtol=1e-4, atol=1e-5
            )
    with pytest.raises(TvlensError, match="no metric 'none'"):
        result["none"]


METRICS = [tv.probability, tv.log_probability, tv.rank, tv.accuracy]


@pytest.mark.parametrize("metric", [*METRICS, lambda answer: tv.logit_difference(answer, " ")])
@pytest.mark.parametrize("texts", ["a", ["a", "s", "t"]])
def test_metrics_accept_texts_of_one_token(metric, texts):
    model, (clean, corrupted) = tiny.model("llama"), prompt_pair()
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in texts]
    options = dict(site="z", layers=1, positions=-1)
    result = tv.patch(model, clean, corrupted, metric={"named": metric(texts)}, **options)
    wanted = tv.patch(model, clean, corrupted, metric={"named": metric(ids)}, **options)
    assert torch.equal(result.values, wanted.values)
    mixed = metric([texts[0], *ids[1:]])
    assert torch.equal(tv.patch(model, clean, corrupted, metric=mixed, **options).values,
                       wanted.values[0])  # fmt: skip


def test_metrics_refuse_texts_of_several_tokens():
    model, (clean, corrupted) = tiny.model("llama"), prompt_pair()
    for metric in (tv.logit_difference(" Paris", "a"), tv.probability(["a", " Paris", "s"])):
        with pytest.raises(TvlensError, match=r"' Paris' is 6 tokens, \[' ', 'P', .*one token"):
            tv.patch(model, clean, corrupted, site="z", metric=metric)
    with pytest.raises(TvlensError, match="2 token ids for 3 examples"):
        tv.patch(model, clean, corrupted, site="z", metric=tv.rank(["a", "s"]))
    with pytest.raises(TvlensError, match=r"logit_difference was given texts.*give token ids"):
        tv.logit_difference("a", "s")(torch.zeros(1, 1, 384))


def test_logit_difference_of_selected_tokens_equals_full_unembedding(causal):
    """`logit_difference` unembeds two tokens; the reference unembeds all."""
    clean, corrupted = prompt_pair()
    right, wrong = torch.tensor([9, 4, 30]), 11
    options = dict(site="resid_post", layers=[0, 2], positions=[3, -1])

    def compute_difference(logits):
        return logits[range(3), -1, right] - logits[:, -1, wrong]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        selected, complete = (
            tv.patch(causal, clean, corrupted, metric=metric, **options)
            for metric in (tv.logit_difference(right, wrong), compute_difference)
        )
        both = {"few": tv.logit_difference(right, wrong), "other": METRIC}
        two = tv.patch(causal, clean, corrupted, metric=both, **options)
    torch.testing.assert_close(selected.values, complete.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(selected.clean, complete.clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two["few"].values, selected.values, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert causal(corrupted).shape[-1] == 384  # the unembedding is whole again
    with pytest.raises(TvlensError, match="outside the vocabulary"):
        tv.patch(causal, clean, corrupted, metric=tv.logit_difference(900, 1), **options)
