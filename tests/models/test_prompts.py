"""`read_prompts`: texts, token ids, tokenizer output and padded tensors."""

import copy
import types
import warnings

import numpy as np
import pytest
import tiny
import torch

import tvlens as tv
from tvlens import TvlensError
from tvlens.models.prompts import read_prompts, remove_padding
from tvlens.tasks import build

pytestmark = [pytest.mark.tl3, pytest.mark.no_arithmetic]

METRIC = tv.logit_difference(7, 11)
PAD, BOS, EOS = 2, 1, 3


def fake_tokenizer(pad, *, bos=None, eos=None, appends=False):
    """A tokenizer with the attributes that padding depends on."""
    fake = types.SimpleNamespace(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos)

    class Tokenizer(type(fake)):
        def __call__(self, text):
            return {"input_ids": [9, eos] if appends else [9]}

        def decode(self, ids):
            return str(ids)

    return Tokenizer(**vars(fake))


def pad_rows(rows, pad, side, width):
    fill = [[pad] * (width - len(row)) for row in rows]
    pairs = zip(fill, rows, strict=True)
    return torch.tensor([f + row if side == "left" else row + f for f, row in pairs])


def as_lists(rows):
    return [torch.as_tensor(getattr(row, "tokens", row)).tolist() for row in rows]


ROWS = [[5, 6], [7, 8, 9, 4], [6, 5, 4]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [4, 6])
def test_unpadded_removes_a_token_used_for_padding_only(side, width):
    rows = remove_padding(fake_tokenizer(PAD, bos=BOS, eos=EOS), pad_rows(ROWS, PAD, side, width))
    assert as_lists(rows) == ROWS


@pytest.mark.parametrize("width", [4, 5, 6])
def test_unpadded_removes_end_of_text_tokens_on_the_right(width):
    """Also if no row has full length."""
    rows = remove_padding(
        fake_tokenizer(PAD, bos=BOS, eos=PAD), pad_rows(ROWS, PAD, "right", width)
    )
    assert as_lists(rows) == ROWS
    begun = [[PAD, *row] for row in ROWS]
    rows = remove_padding(
        fake_tokenizer(PAD, bos=PAD, eos=PAD), pad_rows(begun, PAD, "right", width + 1)
    )
    assert as_lists(rows) == begun


def test_unpadded_keeps_one_begin_of_text_token():
    """As in GPT-2, where <|endoftext|> begins, ends and pads texts."""
    shared = fake_tokenizer(PAD, bos=PAD, eos=PAD)
    begun = [[PAD, *row] for row in ROWS]
    assert as_lists(remove_padding(shared, pad_rows(begun, PAD, "left", 5))) == begun
    assert as_lists(remove_padding(shared, pad_rows(ROWS, PAD, "left", 4))) == ROWS
    for rows in (begun, ROWS):
        with pytest.raises(TvlensError, match=r"begins with 2 or more.*attention_mask"):
            remove_padding(shared, pad_rows(rows, PAD, "left", 6))


@pytest.mark.parametrize("width", [5, 7])
def test_unpadded_removes_padding_before_the_begin_of_text_token(width):
    """As in Llama with the end-of-text token as padding."""
    begun = [[BOS, *row] for row in ROWS]
    rows = remove_padding(
        fake_tokenizer(PAD, bos=BOS, eos=PAD), pad_rows(begun, PAD, "left", width)
    )
    assert as_lists(rows) == begun


def test_unpadded_keeps_one_padding_token_on_the_other_side():
    shared = fake_tokenizer(PAD, bos=PAD, eos=PAD)
    ended = [[PAD, *row, PAD] for row in ROWS]
    assert as_lists(remove_padding(shared, pad_rows(ended, PAD, "left", 6))) == ended
    partly_begun = [[PAD, 5], [7, 8, 9, 4], [6, 5]]
    assert as_lists(remove_padding(shared, pad_rows(partly_begun, PAD, "right", 4))) == partly_begun
    with pytest.raises(TvlensError, match=r"every row ends with one '.2.', .*attention_mask"):
        remove_padding(shared, torch.tensor([[5, 6, PAD], [7, 8, PAD]]))
    with pytest.raises(TvlensError, match=r"begin and end.*attention_mask"):
        remove_padding(shared, torch.tensor([[PAD, PAD, 5, 6], [7, 8, PAD, PAD]]))


def test_unpadded_keeps_end_tokens_that_the_tokenizer_appends():
    ended = [[*row, EOS] for row in ROWS]
    appending = fake_tokenizer(EOS, bos=BOS, eos=EOS, appends=True)
    assert as_lists(remove_padding(appending, pad_rows(ended, EOS, "right", 5))) == ended


def test_unpadded_refuses_rows_of_padding():
    with pytest.raises(TvlensError, match="prompt 1 is empty: it holds nothing but padding"):
        remove_padding(fake_tokenizer(PAD, bos=BOS, eos=EOS), torch.tensor([[5, 6], [PAD, PAD]]))
    rows = remove_padding(
        fake_tokenizer(PAD, bos=PAD), torch.tensor([[PAD, 6, 5], [PAD, PAD, PAD]])
    )
    assert as_lists(rows) == [[PAD, 6, 5], [PAD]]  # the empty text
    assert as_lists(remove_padding(fake_tokenizer(None), torch.tensor([[0, 5, 0]]))) == [[0, 5, 0]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [11, 14])
@pytest.mark.parametrize("form", ["tensor", "mask"])
@pytest.mark.parametrize("name", ["gpt2", tiny.CAUSAL[-1]])
def test_padded_rows_have_states_and_patches_of_single_rows(name, side, width, form):
    """For `collect` and `patch`, with and without a row of full length."""
    causal = tiny.model(name)
    pad = causal.tokenizer.pad_token_id
    rows = tiny.ragged("text", (5, 11, 8))
    others = [[token + 1 for token in row] for row in rows]

    def model_input(rows):
        tokens = pad_rows(rows, pad, side, width)
        mask = pad_rows([[1] * len(row) for row in rows], 0, side, width)
        return tokens if form == "tensor" else {"input_ids": tokens, "attention_mask": mask}

    together = tv.collect(causal, model_input(rows), layers=[0, 2], progress=False)
    assert together.lengths.tolist() == [5, 11, 8]
    options = dict(site="resid_post", metric=METRIC, layers=1, positions=[-1, -4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched = tv.patch(causal, model_input(rows), model_input(others), **options)
        for i, row in enumerate(rows):
            alone = tv.collect(causal, [row], layers=[0, 2], progress=False)
            for site, state in alone.items():
                torch.testing.assert_close(
                    together[site][i, : len(row)], state[0], rtol=1e-4, atol=1e-5
                )
            single = tv.patch(causal, [row], [others[i]], **options)
            torch.testing.assert_close(
                patched.values[:, i], single.values[:, 0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("side", ["left", "right"])
def test_read_prompts_accepts_tokenizer_output(side):
    model, padding_tokenizer = tiny.model("llama"), copy.deepcopy(tiny.tokenizer())
    padding_tokenizer.padding_side = side
    texts = ["Q: cat", "Q: dog\nA: dogs", "red"]
    wanted = [padding_tokenizer(text)["input_ids"] for text in texts]
    for batch in (
        padding_tokenizer(texts, padding=True, return_tensors="pt"),
        padding_tokenizer(texts, padding="max_length", max_length=40, return_tensors="np"),
        padding_tokenizer(texts, padding=True),
        dict(padding_tokenizer(texts)),
        [padding_tokenizer(text) for text in texts],
    ):
        assert as_lists(read_prompts(model, batch)) == wanted
    assert as_lists(read_prompts(model, padding_tokenizer(texts[0]))) == wanted[:1]
    source = {tv.Site("z", l).hook(model): torch.zeros(1, 1, 4, 8) for l in range(3)}
    # A mapping without token ids is still a source of activations.
    zero = tv.patch(model, source, padding_tokenizer(texts), site="z", positions=-1, metric=METRIC)
    from_lists = tv.patch(model, "zero", wanted, site="z", positions=-1, metric=METRIC)
    assert torch.equal(zero.values, from_lists.values)


def test_read_prompts_accepts_a_single_prompt():
    model = tiny.model("llama")
    for one in ([3, 4, 5], (3, 4, 5), torch.tensor([3, 4, 5]), np.array([3, 4, 5]), [[3, 4, 5]]):
        assert as_lists(read_prompts(model, one)) == [[3, 4, 5]]
    assert as_lists(read_prompts(model, "Q: cat")) == [model.to_tokens("Q: cat")[0].tolist()]
    prompt = build(model.tokenizer, tv.Template.of("qa"), [], "cat")
    assert read_prompts(model, prompt) == [prompt]


MASKED = {"input_ids": [[3, 4, 5]]}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "cannot read prompts from NoneType"),
        ([[[3, 4]]], "prompt 0 is neither a text nor a list of token ids"),
        ([[True, False]], "neither a text nor a list of token ids"),
        ([[3, 4], [1.5]], "prompt 1 is neither"),
        (torch.ones(2, 3).bool(), "integers .prompt, position., not bool"),
        (torch.ones(2, 2, 2).long(), r"not int64 \[2, 2, 2\]"),
        (torch.rand(2, 3), "holds no prompts"),
        (torch.rand(2, 3, 16, 16), "reads no images"),
        (torch.rand(2, 3, 16), "as wide as the model, 32, not 16"),
        (torch.zeros(0, 4).long(), "no prompts"),
        ([[3, 999]], "token 999 of prompt 0 is outside the model's vocabulary of 384"),
        ([[3], [-1]], "token -1 of prompt 1"),
        ({}, "needs 'input_ids'; this one has nothing"),
        (MASKED | {"attention_mask": [[1, 0, 1]]}, "mask of prompt 0 has gaps"),
        (MASKED | {"attention_mask": [[0, 0, 0]]}, "prompt 0 is empty"),
        (MASKED | {"attention_mask": [[1, 1]]}, "different shapes"),
        (MASKED | {"pixel_values": 0}, "'pixel_values' cannot be read"),
        (
            MASKED | {"attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 1]]},
            "token_type_ids other than 0",
        ),
    ],
)
def test_collect_and_patch_refuse_invalid_prompts(unchecked, prompts, message):
    model = tiny.model("llama")
    with pytest.raises(TvlensError, match=message):
        tv.collect(model, prompts, progress=False)
    if not isinstance(prompts, dict) or prompts:  # an empty mapping is an empty source
        with pytest.raises(TvlensError, match=message):
            tv.patch(model, prompts, [[3, 4, 5]], site="z", metric=METRIC)


def test_image_models_refuse_tokens(unchecked):
    for prompts in ([[3, 4]], torch.rand(1, 3, 8, 8), torch.rand(1, 17, 32)):
        with pytest.raises(TvlensError, match=r"reads images"):
            tv.collect(tiny.model("vit"), prompts, progress=False)
