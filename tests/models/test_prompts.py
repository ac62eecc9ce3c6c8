"""`read_prompts`: every form in which people hold prompts gives the rows that they mean."""

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


def tokenizer(pad, *, bos=None, eos=None, appends=False):
    """As much of a tokenizer as padding is told by."""
    fake = types.SimpleNamespace(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos)

    class Tokenizer(type(fake)):
        def __call__(self, text):
            return {"input_ids": [9, eos] if appends else [9]}

        def decode(self, ids):
            return str(ids)

    return Tokenizer(**vars(fake))


def padded(rows, pad, side, width):
    fill = [[pad] * (width - len(row)) for row in rows]
    pairs = zip(fill, rows, strict=True)
    return torch.tensor([f + row if side == "left" else row + f for f, row in pairs])


def lists(rows):
    return [torch.as_tensor(getattr(row, "tokens", row)).tolist() for row in rows]


ROWS = [[5, 6], [7, 8, 9, 4], [6, 5, 4]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [4, 6])
def test_a_padding_token_of_its_own_is_always_padding(side, width):
    rows = remove_padding(tokenizer(PAD, bos=BOS, eos=EOS), padded(ROWS, PAD, side, width))
    assert lists(rows) == ROWS


@pytest.mark.parametrize("width", [4, 5, 6])
def test_padding_at_the_end_goes_where_it_is_also_the_end_of_texts(width):
    """No row of full length is needed."""
    rows = remove_padding(tokenizer(PAD, bos=BOS, eos=PAD), padded(ROWS, PAD, "right", width))
    assert lists(rows) == ROWS
    begun = [[PAD, *row] for row in ROWS]
    rows = remove_padding(tokenizer(PAD, bos=PAD, eos=PAD), padded(begun, PAD, "right", width + 1))
    assert lists(rows) == begun


def test_one_beginning_is_kept_where_the_padding_begins_texts():
    """GPT-2: <|endoftext|> begins texts, ends them and pads them."""
    own = tokenizer(PAD, bos=PAD, eos=PAD)
    begun = [[PAD, *row] for row in ROWS]
    assert lists(remove_padding(own, padded(begun, PAD, "left", 5))) == begun
    assert lists(remove_padding(own, padded(ROWS, PAD, "left", 4))) == ROWS
    for rows in (begun, ROWS):
        with pytest.raises(TvlensError, match=r"begins with 2 or more.*attention_mask"):
            remove_padding(own, padded(rows, PAD, "left", 6))


@pytest.mark.parametrize("width", [5, 7])
def test_padding_before_a_beginning_of_its_own_is_padding(width):
    """Llama with the end of texts as padding: the beginning stands behind it."""
    begun = [[BOS, *row] for row in ROWS]
    rows = remove_padding(tokenizer(PAD, bos=BOS, eos=PAD), padded(begun, PAD, "left", width))
    assert lists(rows) == begun


def test_one_token_at_the_other_side_is_the_text_s_own():
    own = tokenizer(PAD, bos=PAD, eos=PAD)
    ended = [[PAD, *row, PAD] for row in ROWS]
    assert lists(remove_padding(own, padded(ended, PAD, "left", 6))) == ended
    some = [[PAD, 5], [7, 8, 9, 4], [6, 5]]
    assert lists(remove_padding(own, padded(some, PAD, "right", 4))) == some
    with pytest.raises(TvlensError, match=r"every row ends with one '.2.', .*attention_mask"):
        remove_padding(own, torch.tensor([[5, 6, PAD], [7, 8, PAD]]))
    with pytest.raises(TvlensError, match=r"begin and end.*attention_mask"):
        remove_padding(own, torch.tensor([[PAD, PAD, 5, 6], [7, 8, PAD, PAD]]))


def test_a_tokenizer_that_ends_its_texts_keeps_their_ends():
    ended = [[*row, EOS] for row in ROWS]
    own = tokenizer(EOS, bos=BOS, eos=EOS, appends=True)
    assert lists(remove_padding(own, padded(ended, EOS, "right", 5))) == ended


def test_rows_of_padding_alone():
    with pytest.raises(TvlensError, match="prompt 1 is empty: it holds nothing but padding"):
        remove_padding(tokenizer(PAD, bos=BOS, eos=EOS), torch.tensor([[5, 6], [PAD, PAD]]))
    rows = remove_padding(tokenizer(PAD, bos=PAD), torch.tensor([[PAD, 6, 5], [PAD, PAD, PAD]]))
    assert lists(rows) == [[PAD, 6, 5], [PAD]]  # the empty text
    assert lists(remove_padding(tokenizer(None), torch.tensor([[0, 5, 0]]))) == [[0, 5, 0]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [11, 14])
@pytest.mark.parametrize("form", ["tensor", "mask"])
@pytest.mark.parametrize("name", ["gpt2", tiny.CAUSAL[-1]])
def test_padded_rows_have_the_states_and_patches_of_the_rows_alone(name, side, width, form):
    """In `collect` and `patch` alike, whether a row is of full length or none is."""
    causal = tiny.model(name)
    pad = causal.tokenizer.pad_token_id
    rows = tiny.ragged("text", (5, 11, 8))
    others = [[token + 1 for token in row] for row in rows]

    def given(rows):
        tokens = padded(rows, pad, side, width)
        mask = padded([[1] * len(row) for row in rows], 0, side, width)
        return tokens if form == "tensor" else {"input_ids": tokens, "attention_mask": mask}

    together = tv.collect(causal, given(rows), layers=[0, 2], progress=False)
    assert together.lengths.tolist() == [5, 11, 8]
    options = dict(site="resid_post", metric=METRIC, layers=1, positions=[-1, -4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched = tv.patch(causal, given(rows), given(others), **options)
        for i, row in enumerate(rows):
            alone = tv.collect(causal, [row], layers=[0, 2], progress=False)
            for site, state in alone.items():
                torch.testing.assert_close(
                    together[site][i, : len(row)], state[0], rtol=1e-4, atol=1e-5
                )
            one = tv.patch(causal, [row], [others[i]], **options)
            torch.testing.assert_close(patched.values[:, i], one.values[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_output_of_a_tokenizer(side):
    model, own = tiny.model("llama"), copy.deepcopy(tiny.tokenizer())
    own.padding_side = side
    texts = ["Q: cat", "Q: dog\nA: dogs", "red"]
    wanted = [own(text)["input_ids"] for text in texts]
    for batch in (
        own(texts, padding=True, return_tensors="pt"),
        own(texts, padding="max_length", max_length=40, return_tensors="np"),
        own(texts, padding=True),
        dict(own(texts)),
        [own(text) for text in texts],
    ):
        assert lists(read_prompts(model, batch)) == wanted
    assert lists(read_prompts(model, own(texts[0]))) == wanted[:1]
    source = {tv.Site("z", l).hook(model): torch.zeros(1, 1, 4, 8) for l in range(3)}
    # A mapping without token ids is still a source of activations.
    zero = tv.patch(model, source, own(texts), site="z", positions=-1, metric=METRIC)
    same = tv.patch(model, "zero", wanted, site="z", positions=-1, metric=METRIC)
    assert torch.equal(zero.values, same.values)


def test_one_prompt_may_stand_alone():
    model = tiny.model("llama")
    for one in ([3, 4, 5], (3, 4, 5), torch.tensor([3, 4, 5]), np.array([3, 4, 5]), [[3, 4, 5]]):
        assert lists(read_prompts(model, one)) == [[3, 4, 5]]
    assert lists(read_prompts(model, "Q: cat")) == [model.to_tokens("Q: cat")[0].tolist()]
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
def test_what_is_no_prompt_is_named(unchecked, prompts, message):
    model = tiny.model("llama")
    with pytest.raises(TvlensError, match=message):
        tv.collect(model, prompts, progress=False)
    if not isinstance(prompts, dict) or prompts:  # an empty mapping is an empty source
        with pytest.raises(TvlensError, match=message):
            tv.patch(model, prompts, [[3, 4, 5]], site="z", metric=METRIC)


def test_models_of_pictures_read_no_tokens(unchecked):
    for prompts in ([[3, 4]], torch.rand(1, 3, 8, 8), torch.rand(1, 17, 32)):
        with pytest.raises(TvlensError, match=r"reads images"):
            tv.collect(tiny.model("vit"), prompts, progress=False)
