"""Finetuning of tiny encoders on planted datasets, and their heads."""

import importlib
import json

import numpy as np
import pytest
import tiny
import torch
import transformers as hf

import tvlens as tv
from tvlens import LabelledDataset, TvlensError
from tvlens.models import Batch, batches, classifier_head, classify, readout, run
from tvlens.models.mean_pooling import MEAN_CLASSIFIERS
from tvlens.training import finetune, finetuning, load_finetuned
from tvlens.training.examples import EncoderExamples

pytestmark = pytest.mark.tl3

FAST = dict(epochs=6, patience=6, lr=3e-3, head_lr=1e-2, batch_size=16, progress=False)
WORDS = ("cat dog bus red green house tree", "one two three four five six seven")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of a tiny BERT, RoBERTa and ViT, texts with a tokenizer that marks both ends."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    root = tmp_path_factory.mktemp("bases")
    for kind in ("bert-bare", "roberta-bare", "vit"):
        torch.manual_seed(0)
        tiny._hugging_face(kind).save_pretrained(root / kind)
        if kind != "vit":
            raw = Tokenizer.from_str(tiny.tokenizer()._tokenizer.to_str())  # the other is shared
            raw.post_processor = TemplateProcessing(
                single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
            )
            hf.PreTrainedTokenizerFast(
                tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
            ).save_pretrained(root / kind)
    return root


def planted_texts(n=160, seed=0):
    """Sample texts of random words from one of two lists, which is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    texts = [" ".join(rng.choice(WORDS[k].split(), rng.integers(2, 6)))
             for k in labels]  # fmt: skip
    return LabelledDataset("planted", texts, labels.tolist(), ["things", "numbers"])


def planted_images(n=96, seed=0):
    """Dark and light images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = [rng.integers(0 + 120 * k, 130 + 120 * k, (8, 8, 3)).astype(np.uint8)
                for k in labels]  # fmt: skip
    return LabelledDataset("shades", images, labels.tolist(), ["dark", "light"], kind="image")


@pytest.mark.parametrize(
    ("base", "how"), [("bert-bare", "mean"), ("bert-bare", "first"), ("roberta-bare", "mean"),
                      ("roberta-bare", "first"), ("vit", "first")]
)  # fmt: skip
def test_finetune_learns_a_planted_dataset_and_loads_again(bases, tmp_path, base, how):
    data = planted_images() if base == "vit" else planted_texts()
    train, validation, test = data.split(0)
    # From random weights, attention of the first token to all words is learned more slowly.
    slow = dict(lr=1e-3, head_lr=3e-3, epochs=12, patience=12) if how == "first" else {}
    options = FAST | (slow if data.kind == "text" else {})
    tuned = finetune(
        bases / base, train, validation, folder=tmp_path / "tuned", readout=how, **options
    )
    assert tuned.accuracy >= 0.9
    assert tuned.history[-1]["loss"] < tuned.history[0]["loss"]
    model = tuned.model()
    if data.kind == "text":
        rows = [model.to_tokens(text)[0].tolist() for text in test.inputs[:3]]
        assert rows == next(iter(batches(model, test.inputs[:3])))
        assert all(row[0] == 1 and row[-1] == 2 for row in rows)  # both ends are marked
    logits = classify(model, validation.inputs)
    right = (logits.argmax(1) == torch.tensor(validation.labels)).double().mean()
    assert right == pytest.approx(tuned.accuracy)
    # The head of the readout states reproduces the model, which task matrices rely on.
    logits_by_batch = []
    for part in batches(model, test.inputs, batch_size=7):
        batch = Batch.of(model, part)
        states = {}

        def store(state, hook, states=states):
            states["state"] = state

        logits = run(model, batch, hooks=[("blocks.2.hook_resid_post", store)])
        state = readout(tuned.settings["readout"])(states["state"], batch.lengths)
        with torch.no_grad():
            torch.testing.assert_close(classifier_head(model)(state), logits, rtol=1e-4, atol=1e-5)
        logits_by_batch.append(logits)
    torch.testing.assert_close(torch.cat(logits_by_batch).cpu(), classify(model, test.inputs))
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_mean_classifier_reads_the_mean_of_real_positions(kind):
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(**tiny._TEXT, num_labels=5)
    source = MEAN_CLASSIFIERS[f"{kind}ForMeanClassification"](config).eval()
    rows = tiny.ragged("text")
    wanted = []
    with torch.no_grad():
        for row in rows:  # alone, and by hand
            states = source.base_model(torch.tensor([row])).last_hidden_state
            weight, bias = source.classifier.weight, source.classifier.bias
            wanted.append(states[0].mean(0) @ weight.T + bias)
    model = tv.load(source)
    torch.testing.assert_close(run(model, Batch.of(model, rows)), torch.stack(wanted))


@pytest.mark.parametrize("kind", [k for k in tiny.KINDS if "classifier" in k])
def test_head_reproduces_the_logits_of_every_classifier(kind):
    model, inputs = tiny.model(kind), tiny.ragged(kind)
    states = tv.collect(model, inputs, "resid_post", layers=2, positions=0, progress=False)
    with torch.no_grad():
        logits = classifier_head(model)(states["resid_post.2"][:, 0])
    torch.testing.assert_close(logits, run(model, Batch.of(model, inputs)), rtol=1e-4, atol=1e-5)


class Stop(Exception):
    pass


def test_interrupted_run_resumes_with_the_same_bits(bases, tmp_path, monkeypatch):
    train, validation, _ = planted_texts().split(0)
    options = FAST | dict(lr=1e-3, epochs=4)
    complete = finetune(
        bases / "bert-bare", train, validation, folder=tmp_path / "whole", **options
    )
    calls = []

    def validate(training, original=finetuning._validate):
        calls.append(1)
        if len(calls) == 3:
            raise Stop
        return original(training)

    monkeypatch.setattr(finetuning, "_validate", validate)
    folder = tmp_path / "stopped"
    with pytest.raises(Stop):
        finetune(bases / "bert-bare", train, validation, folder=folder, **options)
    assert not folder.exists()
    with pytest.raises(TvlensError, match=r"holds another run: seed: 0 there, 1 here"):
        finetune(bases / "bert-bare", train, validation, folder=folder, seed=1, **options)
    resumed = finetune(bases / "bert-bare", train, validation, folder=folder, **options)
    assert len(calls) == 5  # two whole epochs, the one cut off, and two more

    def numbers(run):
        return [{k: v for k, v in r.items() if k != "seconds"} for r in run.history]

    assert numbers(resumed) == numbers(complete)
    one, other = (r.folder / "model.safetensors" for r in (complete, resumed))
    assert one.read_bytes() == other.read_bytes()
    monkeypatch.setattr(finetuning, "build_classifier", None)  # would be called to train
    loaded = finetune(bases / "bert-bare", train, validation, folder=folder, **options)
    assert loaded == load_finetuned(folder) == resumed
    with pytest.raises(TvlensError, match=r"lr: 0.001 there, 0.1 here"):
        finetune(bases / "bert-bare", train, validation, folder=folder, **options | {"lr": 0.1})


def test_finetune_keeps_the_best_epoch_and_stops_by_patience(bases, tmp_path):
    rng = np.random.default_rng(0)
    data = planted_texts(60)
    noise = LabelledDataset("noise", data.inputs, rng.integers(0, 2, 60).tolist(), data.classes)
    train, validation, _ = noise.split(0)
    options = FAST | dict(epochs=30, patience=2)
    tuned = finetune(bases / "bert-bare", train, validation, folder=tmp_path / "noise", **options)
    accuracies = [record["accuracy"] for record in tuned.history]
    assert tuned.epoch == 1 + int(np.argmax(accuracies))
    assert len(tuned.history) == tuned.epoch + 2 < 30
    logits = classify(tuned.model(), validation.inputs)
    assert (logits.argmax(1) == torch.tensor(validation.labels)).double().mean() == pytest.approx(
        tuned.accuracy
    )
    assert len(tuned.to_dataframe()) == len(tuned.history)
    assert "<" in tuned._repr_html_()


def test_finetune_leaves_frozen_blocks_unchanged(bases, tmp_path):
    train, validation, _ = planted_texts(60).split(0)
    options = FAST | dict(epochs=1, frozen=2)
    tuned = finetune(bases / "bert-bare", train, validation, folder=tmp_path / "top", **options)
    base, ours = tv.load(bases / "bert-bare"), tuned.model()
    rows = next(iter(batches(base, validation.inputs)))
    before, after = (tv.collect(m, rows, "resid_post", progress=False) for m in (base, ours))
    torch.testing.assert_close(before["resid_post.1"], after["resid_post.1"])
    assert not torch.allclose(before["resid_post.2"], after["resid_post.2"], atol=1e-3)


@pytest.mark.parametrize("base", ["bert-bare", "vit"])
def test_merged_adapters_are_low_rank_changes(bases, tmp_path, base):
    """Merged adapters change every linear map of the blocks by a matrix of their rank."""
    pytest.importorskip("peft")
    data = planted_images() if base == "vit" else planted_texts()
    train, validation, _ = data.split(0)
    options = FAST | dict(lr=2e-2, lora=2, epochs=12, patience=12)
    tuned = finetune(bases / base, train, validation, folder=tmp_path / "lora", **options)
    assert tuned.settings["lora"] == 2 and tuned.accuracy >= 0.9
    model, origin = tuned.model(), tv.load(bases / base)
    logits = classify(model, validation.inputs)
    right = (logits.argmax(1) == torch.tensor(validation.labels)).double().mean()
    assert right == pytest.approx(tuned.accuracy)
    before = dict(origin.original_model.base_model.named_parameters())
    moved = {}
    for name, weight in model.original_model.base_model.named_parameters():
        if name in before and "pooler" not in name:
            change = (weight - before[name]).detach()
            moved[name] = int(
                torch.linalg.matrix_rank(change, tol=1e-4) if change.ndim == 2 else change.any()
            )
    linear = {n for n in moved if "layer" in n and before[n].ndim == 2}
    assert len(linear) == 18 and all(moved[n] == 2 for n in linear)
    assert all(moved[n] == 0 for n in moved if n not in linear)


def test_finetune_with_adapters_leaves_frozen_blocks_unchanged(bases, tmp_path):
    pytest.importorskip("peft")
    train, validation, _ = planted_texts(60).split(0)
    options = FAST | dict(epochs=1, frozen=2, lora=2, lr=1e-2)
    tuned = finetune(bases / "bert-bare", train, validation, folder=tmp_path / "top", **options)
    base, ours = tv.load(bases / "bert-bare"), tuned.model()
    rows = next(iter(batches(base, validation.inputs)))
    before, after = (tv.collect(m, rows, "resid_post", progress=False) for m in (base, ours))
    torch.testing.assert_close(before["resid_post.1"], after["resid_post.1"])
    assert not torch.allclose(before["resid_post.2"], after["resid_post.2"], atol=1e-3)


def test_batches_contain_every_row_once_with_little_padding():
    lengths = np.random.default_rng(0).integers(1, 60, 203)
    examples = EncoderExamples([[1] * n for n in lengths], torch.zeros(203, dtype=torch.long), {})
    epochs = [examples.batches(16, seed=seed) for seed in (0, 0, 1)] + [examples.batches(16)]
    for parts in epochs:
        assert sorted(i for part in parts for i in part) == list(range(203))
        padded = sum(len(part) * max(lengths[part]) for part in parts)
        assert padded < 1.25 * lengths.sum()
    assert epochs[0] == epochs[1] != epochs[2]


def test_bad_input_raises_one_line_errors(bases, tmp_path, monkeypatch):
    train, validation, _ = planted_texts().split(0)
    dark, light, _ = planted_images().split(0)
    bert, vit = bases / "bert-bare", bases / "vit"

    def refused(match, base=bert, a=train, b=validation, **options):
        with pytest.raises(TvlensError, match=match):
            finetune(base, a, b, folder=tmp_path / "bad", **FAST | options)

    refused("not parts of one dataset", b=light)
    refused("the same rows", b=train)
    refused("unknown readout 'las'", readout="las")
    refused("epochs must be at least 1", epochs=0)
    refused("lr must be above 0", lr=0.0)
    refused("frozen must be 0 to 3", frozen=4)
    refused("rank of LoRA must be at least 1", lora=0)
    refused("no model folder", base=bases / "none")
    refused("unknown model 'minilm-l7': did you mean 'minilm-l6'", base="minilm-l7")
    refused("reads images, not texts", base=vit)
    refused("reads texts, not images", a=dark, b=light)
    refused("first token", base=vit, a=dark, b=light, readout="mean")
    refused("loss is nan|loss is inf", lr=1e30, head_lr=1e30)
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None)
        refused(r"needs the library peft: pip install 'tvlens\[lora\]'", lora=4)
    assert not (tmp_path / "bad").exists()
    (tmp_path / "bad").mkdir()
    refused("holds no finetuned encoder")
    (tmp_path / "bad" / "finetune.json").write_text(json.dumps({}))
    refused("holds no finetuned encoder")
    with pytest.raises(TvlensError, match="no classifier"):
        classifier_head(tv.load(bert))
    with pytest.raises(TvlensError, match="reads texts, not images"):
        next(batches(tv.load(bert), light.inputs))
    with pytest.raises(TvlensError, match="no inputs"):
        next(batches(tv.load(bert), []))


def test_finetune_refuses_unsupported_architectures_before_training(tmp_path):
    train, validation, _ = planted_texts().split(0)
    config = hf.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=384, max_position_embeddings=96
    )
    hf.DistilBertModel(config).save_pretrained(tmp_path / "distil")
    with pytest.raises(TvlensError, match="cannot open; it opens BertFor"):
        finetune(tmp_path / "distil", train, validation, folder=tmp_path / "bad", **FAST)
