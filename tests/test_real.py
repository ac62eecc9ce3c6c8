"""Tests with packaged weights, mostly SmolLM2-135M."""

import contextlib
import io
import pathlib
import re

import pytest
import torch

import tvlens as tv
from tvlens import zoo
from tvlens.models import classify
from tvlens.vlm import captions
from tvlens.vlm.augmentation import render_on_white

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]

CONTEXTS = 10


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    """Run the README's example; return its namespace, output and folder.

    Its parts and contexts are fewer: enough to choose a layer, and for the shares asserted here.
    """
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    folder, names, stdout = tmp_path_factory.mktemp("readme"), {}, io.StringIO()
    split, extract = tv.Task.split, tv.extract

    def split_smaller(task, **options):
        train, validation, test = split(task, **options)
        return train, validation.subset(range(16)), test.subset(range(min(40, len(test))))

    def extract_from_fewer(model, task, *, contexts, **options):
        return extract(model, task, contexts=min(contexts, CONTEXTS), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tv.Task, "split", split_smaller)
        patch.setattr(tv, "extract", extract_from_fewer)
        with contextlib.chdir(folder), contextlib.redirect_stdout(stdout):
            exec(code, names)
    return names, stdout.getvalue(), folder


@pytest.fixture(scope="module")
def wrong(smollm2):
    tasks = [tv.Task.load(n).split(seed=0)[0] for n in ("country-capital", "lower-upper")]
    return [tv.extract(smollm2, task, contexts=CONTEXTS) for task in tasks]


def check_report(report, least):
    assert report.conditions["vector"].count >= 40
    assert report.zero_shot <= 0.05
    assert report.accuracy >= least
    assert report.accuracy >= report.few_shot - 0.15
    assert max(report.controls["random"], report.controls["wrong_task"]) <= 0.10
    assert 18 <= report.layer <= 23


@pytest.mark.parametrize(("name", "least"), [("irregular-past", 0.55), ("first-letter", 0.55)])
def test_task_vectors_work_on_smollm2(smollm2, wrong, name, least):
    train, validation, test = tv.Task.load(name).split(seed=0)
    vector = tv.extract(smollm2, train, shots=6, contexts=CONTEXTS, seed=0)
    others = [other for other in wrong if other.meta["kind"] != vector.meta["kind"]]
    # Enough to choose one of 30 layers, and for shares whose interval is .15 to either side.
    parts = dict(validation=validation.subset(range(24)), test=test.subset(range(40)))
    check_report(tv.evaluate(smollm2, vector, **parts, wrong=others), least)


def test_the_zoo_reads_bert_from_its_wheel():
    model = tv.load("minilm-l6")
    assert (model.cfg.n_layers, model.cfg.d_model) == (6, 384)
    states = tv.collect(model, ["a cat", "a much longer sentence"], positions=0, progress=False)
    assert states.stack("resid_post").shape == (6, 2, 1, 384)
    assert zoo.is_cached("minilm-l6")


def test_the_zoo_reads_dinov2_from_its_onnx_graph():
    model = tv.load("dinov2-small")
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_ctx) == (12, 384, 257)
    pictures = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    states = tv.collect(model, pictures, positions=0, progress=False)
    assert states.stack("resid_post").shape == (12, 2, 1, 384)


def test_the_readme_example_runs_as_it_stands(readme):
    names, stdout, folder = readme
    check_report(names["report"], 0.6)  # of singular-plural
    assert list(zip(*(names["result"].top(2)[a] for a in ("layer", "head")), strict=True)) == [
        (20, 5),
        (27, 6),
    ]
    assert names["estimate"].rank_correlation(names["result"]) > 0.9
    assert "' tigers'" in stdout
    assert (folder / "plural.safetensors").exists()


def test_minilm_is_finetuned_and_opens_again(tmp_path):
    train, validation, test = tv.LabelledDataset.load("emoji-words").split(0)
    options = dict(epochs=1, lr=3e-4, head_lr=5e-3)  # one fast epoch instead of four
    tuned = tv.finetune("minilm-l6", train, validation, folder=tmp_path / "tuned", **options)
    logits = classify(tuned.model(), test.inputs)
    accuracy = (logits.argmax(1) == torch.tensor(test.labels)).double().mean()
    assert min(tuned.accuracy, accuracy) >= 0.8


def test_dinov2_is_finetuned_and_opens_again(tmp_path):
    parts = tv.LabelledDataset.load("digits").split(0)
    train, validation, test = (part.subset(range(0, len(part), 4)) for part in parts)
    options = dict(folder=tmp_path / "tuned", frozen=6, epochs=3)
    tuned = tv.finetune("dinov2-small-56", train, validation, **options)
    logits = classify(tuned.model(), test.inputs)
    accuracy = (logits.argmax(1) == torch.tensor(test.labels)).double().mean()
    assert min(tuned.accuracy, accuracy) >= 0.5  # 27 updates; chance is .1


@pytest.fixture(scope="module")
def tiny_vlm():
    return tv.load("tiny-vlm")


def test_tiny_vlm_names_images_of_the_held_out_artist(tiny_vlm):
    """Whole names are generated after the copied words, up to the end token."""
    pack = tv.ImagePack.load()
    noto, held_out = pack.where(artist="noto"), pack.sample_names()
    images = noto.subset(i for i, name in enumerate(noto.names) if name not in held_out)
    model, tokenizer = tiny_vlm.original_model, tiny_vlm.tokenizer
    prompt = captions.CaptionPrompt.of(model, tokenizer, "qa")
    for kind, threshold, step in (("flag", 0.6, 9), ("animal", 0.4, 8), ("food", 0.5, 8)):
        some = images.where(kind=kind)
        some = some.subset(range(0, len(some), step))
        views = [render_on_white(some.read_pixels(i), size=224) for i in range(len(some))]
        with torch.no_grad():
            soft_tokens = model.soft_tokens(tiny_vlm.processor.image_processor(views))
        names = [captions.name_ids(tokenizer, name) for name in some.names]
        accuracy = captions.is_named(model, soft_tokens, prompt, names).double().mean()
        assert accuracy >= threshold, f"{kind}: {accuracy:.2f} of {len(some)}"


def test_text_vector_works_on_flag_images(tiny_vlm, wrong):
    """Transfer from text to images (Luo et al. 2024), compared with every control."""
    (task,) = tv.studies.crossmodal.load_image_tasks(["country-capital"])
    train, validation, test = task.split(seed=0)
    validation, test = validation.subset(range(6)), test.subset(range(20))
    vector = tv.extract(tiny_vlm, train, shots=4, contexts=6)
    others = [other for other in wrong if other.name != "country-capital"]
    report = tv.evaluate(
        tiny_vlm, vector, validation=validation, test=test, modality="image", wrong=others
    )
    assert report.zero_shot == 0 and report.accuracy >= 0.15
    assert max(report.controls["random"], report.controls["wrong_task"]) <= 0.05
    assert report.interval[0] > 0.05 and 18 <= report.layer <= 25
