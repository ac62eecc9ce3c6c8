"""`run`: models that are refused, padding, threads."""

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
import transformers as hf

import tvlens as tv
from tvlens import TvlensError
from tvlens.models.families import family
from tvlens.models.hooks import lock_of, locked, with_hooks

pytestmark = pytest.mark.tl3

METRIC = tv.logit_difference(7, 11)
SIDES = torch.randint(3, 120, (2, 3, 7), generator=torch.Generator().manual_seed(4))
SIZES = dict(hidden_size=32, num_hidden_layers=6, num_attention_heads=4, vocab_size=384)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_function_refuses_a_model_in_training_mode(name):
    """GPT-2 has dropout, so that its states would differ at every call."""
    model = tiny.copied(tiny.model(name))
    tiny.give_tokenizer(model)
    task = tv.Task("doubled", [(f"a{i}", f"b{i}") for i in range(20)])
    train, validation, test = task.split(seed=0)
    vector = tv.extract(model, train, shots=2, contexts=2)
    calls = [
        lambda: tv.collect(model, SIDES[0], progress=False),
        lambda: tv.extract(model, train, shots=2, contexts=2),
        lambda: tv.evaluate(model, vector, validation=validation, test=test, wrong=vector),
        lambda: tv.patch(model, *SIDES, site="z", metric=METRIC),
        lambda: tv.attribute(model, *SIDES, site="z", metric=METRIC),
        lambda: tv.patch_paths(model, *SIDES, receiver="logits", metric=METRIC),
    ]
    model.train()
    for call in calls:
        with pytest.raises(TvlensError, match=r"^the model is in training mode: call model.eval"):
            call()
    model.eval()
    model.blocks[1].train()
    for call in calls:
        with pytest.raises(TvlensError, match="a part of the model is in training mode"):
            call()
    model.eval()
    assert calls[0]().lengths.tolist() == [7, 7, 7]


def test_every_function_refuses_a_hugging_face_model(unchecked):
    source = tiny._hugging_face("gpt2")
    vector = tv.TaskVector(torch.rand(3, 32))
    for call in (
        lambda: tv.collect(source, SIDES[0]),
        lambda: tv.patch(source, *SIDES, site="z", metric=METRIC),
        lambda: tv.attribute(source, *SIDES, site="z", metric=METRIC),
        lambda: vector.applied(source, layer=1).__enter__(),
    ):
        with pytest.raises(TvlensError, match=r"GPT2LMHeadModel has no named hook.*tvlens.load"):
            call()


def test_every_function_refuses_encoder_decoders():
    config = hf.T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=384)
    model = tv.load(hf.T5ForConditionalGeneration(config).eval())
    for call in (
        lambda: tv.collect(model, SIDES[0]),
        lambda: tv.patch(model, *SIDES, site="z", metric=METRIC),
        lambda: tv.attribute(model, *SIDES, site="z", metric=METRIC),
    ):
        with pytest.raises(TvlensError, match="T5ForConditionalGeneration is an encoder-decoder"):
            call()


@pytest.mark.parametrize("both_ways", [False, True])
def test_padding_does_not_change_states_of_bidirectional_gemma(both_ways):
    torch.manual_seed(0)
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = hf.Gemma3TextConfig(
        **SIZES,
        intermediate_size=64,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=6,
        layer_types=kinds,
        use_bidirectional_attention=both_ways,
    )
    model = tv.load(hf.Gemma3ForCausalLM(config).eval())
    assert family(model).is_bidirectional == both_ways
    rows = tiny.ragged("text", (5, 11))
    with torch.no_grad():
        expected = model.original_model(input_ids=torch.tensor(rows[:1]), output_hidden_states=True)
    states = tv.collect(model, rows, ["resid_pre"], layers=5, progress=False)["resid_pre.5"][0, :5]
    torch.testing.assert_close(states, expected.hidden_states[5][0], rtol=1e-4, atol=1e-5)
    others = [[token + 1 for token in row] for row in rows]
    options = dict(site="z", layers=[0, 4], positions=-1, metric=METRIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = tv.patch(model, rows, others, **options).values[..., 0]
        alone = tv.patch(model, rows[:1], others[:1], **options).values[..., 0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_threads_on_one_model_give_serial_results():
    model = tiny.model("gpt2")
    vector = tv.TaskVector(torch.randn(3, 32, generator=torch.Generator().manual_seed(1)))
    pairs = torch.randint(3, 120, (10, 2, 2, 6), generator=torch.Generator().manual_seed(5))

    def collect(i):
        return tv.collect(model, pairs[i, 0], ["resid_post", "z"], progress=False).stack("z")

    def patch(i):
        return tv.patch(model, *pairs[i], site="z", metric=METRIC, positions=-1).values

    def attribute(i):
        return tv.attribute(model, *pairs[i], site="z", metric=METRIC, positions=-1).values

    def apply(i):
        with vector.applied(model, layer=1), torch.no_grad():
            return model(pairs[i, 0])

    jobs = [(job, i) for i in range(len(pairs)) for job in (collect, patch, attribute, apply)]
    interval = sys.getswitchinterval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        serial = [job(i) for job, i in jobs]
        try:
            sys.setswitchinterval(1e-4)
            with ThreadPoolExecutor(4) as pool:
                threaded = list(pool.map(lambda job: job[0](job[1]), jobs))
        finally:
            sys.setswitchinterval(interval)
    for expected, actual in zip(serial, threaded, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_lock_of_a_model_is_released_after_an_exception():
    model, other = tiny.model("gpt2"), tiny.model("llama")
    assert lock_of(model) is lock_of(model) and lock_of(model) is not lock_of(other)

    def is_free():
        with ThreadPoolExecutor(1) as pool:
            is_acquired = pool.submit(lambda: lock_of(model).acquire(blocking=False)).result()
            if is_acquired:
                pool.submit(lock_of(model).release).result()
            return is_acquired

    with locked(model), with_hooks(model, []):  # one thread takes it twice
        assert not is_free()
    assert is_free()
    with pytest.raises(RuntimeError, match="stop"), with_hooks(model, []):
        raise RuntimeError("stop")
    assert is_free()
