"""Cached results are reused for equal content and computed again for other content."""

import contextlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import tiny_vision
import torch
import transformers as hf

import tvlens as tv
from tvlens import LabelledDataset, Task
from tvlens.models import digest
from tvlens.models.digest import weights_digest
from tvlens.studies import cache, crossmodal, matrices, methods, mixtures, vectors
from tvlens.studies.crossmodal import seed_run
from tvlens.studies.crossmodal.conditions import ExtractionConfig
from tvlens.tasks import Template
from tvlens.vectors import VectorReport
from tvlens.vectors.report import Condition
from tvlens.vectors.show import CONDITION_LABELS
from tvlens.vlm import HELD_OUT_ARTIST

pytestmark = pytest.mark.no_arithmetic

LETTERS = "abcdefghijklmnopqrst"
DOUBLE = Task("double", [(x, 2 * x) for x in LETTERS], instruction="Twice:", kind="letters")
UPPER = Task("upper", [(x, x.upper()) for x in LETTERS], kind="case")


@pytest.fixture
def llama():
    return tiny.model.__wrapped__("llama")  # not the shared one: its weights are changed


@contextlib.contextmanager
def perturb_weights(model, by=0.01):
    """Change one entry of one weight matrix temporarily."""
    matrix = next(p for p in model.parameters() if p.ndim > 1)
    with torch.no_grad():
        matrix[0, 0] += by
    try:
        yield
    finally:
        with torch.no_grad():
            matrix[0, 0] -= by


@pytest.fixture
def count_calls(monkeypatch):
    """Count the calls of a function, given its module and name."""

    def count_calls_of(module, name):
        calls, function = [], getattr(module, name)

        def call(*args, **options):
            calls.append(name)
            return function(*args, **options)

        monkeypatch.setattr(module, name, call)
        return calls

    return count_calls_of


@pytest.fixture
def evaluations(monkeypatch):
    """Record evaluations by task; their results are constants, and no page is written."""
    calls = []

    def evaluate(model, vector, **_):
        calls.append(vector.name)
        conditions = {
            n: Condition(n, 0.5, (0.4, 0.6), 0.5, (0.4, 0.6), 3) for n in CONDITION_LABELS
        }
        return VectorReport(vector.name, 0, torch.zeros(3), torch.zeros(3, 2), conditions)

    for study, kind in ((methods, methods.MethodStudy), (vectors, vectors.VectorStudy)):
        monkeypatch.setattr(study, "evaluate", evaluate)
        monkeypatch.setattr(kind, "save", lambda *_: None)
    return calls


def test_weights_digest_depends_on_weights_not_names(llama):
    other = tiny.model.__wrapped__("llama")
    other.cfg.model_name = "called otherwise"
    assert weights_digest(llama) == weights_digest(other) != weights_digest(tiny.model("gpt2"))
    assert weights_digest(llama) == weights_digest(llama)
    with perturb_weights(other):
        assert weights_digest(llama) != weights_digest(other)
    half = tiny.model.__wrapped__("llama").to(torch.bfloat16)
    assert weights_digest(half) != weights_digest(llama)


def test_weights_digest_detects_every_change_of_weights(llama):
    matrix = max((p for p in llama.parameters() if p.ndim > 1), key=torch.numel)
    old, digests = matrix.detach().clone(), [weights_digest(llama)]
    last = (-1, -1)  # not among the places that are looked at again
    with torch.no_grad():
        matrix[last] += 1
        digests.append(weights_digest(llama))
        matrix.copy_(old)
    assert weights_digest(llama) == digests[0]
    matrix.data.mul_(2)
    digests.append(weights_digest(llama))
    matrix.data = old.clone()
    assert weights_digest(llama) == digests[0]
    optimizer = torch.optim.SGD([matrix], lr=1.0)
    matrix.grad = torch.zeros_like(matrix)
    matrix.grad[last] = 1
    optimizer.step()
    digests.append(weights_digest(llama))
    llama.original_model.config.rms_norm_eps = 0.1
    digests.append(weights_digest(llama))
    assert len(set(digests)) == len(digests)


def test_weights_digest_is_computed_once(llama, monkeypatch):
    sizes, tensor_bytes = [], digest._tensor_bytes

    def call(tensor):
        sizes.append(tensor.numel())
        return tensor_bytes(tensor)

    monkeypatch.setattr(digest, "_tensor_bytes", call)
    size = sum(p.numel() for p in llama.parameters())
    weights_digest(llama)
    assert sum(sizes) > size
    sizes.clear()
    weights_digest(llama)
    assert sum(sizes) < size / 4


def test_weights_digest_of_meta_tensors_is_never_equal():
    layer = torch.nn.Linear(3, 3, device="meta")
    assert weights_digest(layer) != weights_digest(layer)


def test_weights_digest_of_inference_tensors_is_recomputed():
    with torch.inference_mode():
        layer = torch.nn.Linear(3, 3)
        before = weights_digest(layer)
        layer.weight[2, 2] += 1
        assert weights_digest(layer) != before


def test_content_key_depends_on_all_content():
    image = np.zeros((2, 2, 3), np.uint8)
    pairs = [("a", "b"), ("c", "d")]
    task = Task("t", pairs, images={"a": image, "c": image})

    def key(**content):
        return cache.content_key("test", **content)

    keys = [
        key(task=task),
        key(task=Task("t", pairs)),
        key(task=Task("t", [*pairs[:1], ("c", "e")])),
        key(task=replace(task, instruction="i")),
        key(task=replace(task, images={"a": image, "c": image + 1})),
        key(seed=1),
        key(seed="1"),
        key(template=Template.of("qa")),
        key(template=Template.of("arrow")),
        key(values=torch.ones(2)),
        key(values=torch.zeros(2)),
        key(function=lambda: 1),
        key(function=lambda: 2),
        cache.content_key("another", task=task),
    ]
    assert len(set(keys)) == len(keys)
    equal_task = Task("t", [("a", "b"), ("c", "d")], images={"a": image.copy(), "c": image.copy()})
    assert key(task=equal_task) == keys[0]
    assert key(one=object()) != key(one=object()), "an unknown thing is never the same"


def test_content_key_of_an_image_file_depends_on_its_bytes(tmp_path):
    def key():
        return cache.content_key("test", task=Task("t", [("a", "b")], images={"a": file}))

    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    before = key()
    assert key() == before
    file.write_bytes(b"two and more")
    assert key() != before


def test_crossmodal_vectors_are_cached_by_config_task_and_weights(tmp_path, count_calls):
    """Keys depend on template, artist, instruction and weights, not on model names."""
    model = tiny_vision.model.__wrapped__("tiny-vlm")
    noto, other = (
        crossmodal.load_image_tasks(["animal-class"], artist=artist)[0]
        for artist in (HELD_OUT_ARTIST, "twemoji")
    )
    shared = [x for x, _ in noto if x in other.images][:8]
    noto, other = (
        task.subset([i for i, (x, _) in enumerate(task) if x in shared]) for task in (noto, other)
    )
    config = ExtractionConfig(shots=2, sets=1, contexts=2, template="Q: {x}\nA: {y}\n\n", seed=0)
    calls = count_calls(seed_run, "extract")

    def extract_again(task=noto, config=config):
        calls.clear()
        vectors = seed_run.extract_vectors(model, task, config, folder=tmp_path)
        return len(calls), vectors["image"].values, vectors["instruction"].values

    first = extract_again()
    assert first[0] == 4 and extract_again()[0] == 0, "text, image, shuffled labels, instruction"
    assert extract_again(config=replace(config, template="{x} -> {y}\n"))[0] == 4
    assert extract_again()[0] == 4  # one file a name: the first ones are gone
    from_other = extract_again(other)
    assert from_other[0] == 4 and not torch.equal(from_other[1], first[1])
    extract_again()
    instructed = extract_again(replace(noto, instruction="Which kind:"))
    assert instructed[0] == 4 and not torch.equal(instructed[2], first[2])
    repeated = extract_again()
    assert repeated[0] == 4 and torch.equal(repeated[1], first[1]) and extract_again()[0] == 0
    with perturb_weights(model):
        assert extract_again()[0] == 4


def test_crossmodal_outcomes_are_cached_by_config_and_weights(tmp_path, monkeypatch):
    """The measurements themselves are stubs."""
    model = tiny_vision.model.__wrapped__("tiny-vlm")
    tasks = crossmodal.load_image_tasks(["animal-class", "food-color"])
    tasks = [task.subset(range(14)) for task in tasks]
    config = ExtractionConfig(shots=2, sets=1, contexts=2, template="{x}: {y}\n", seed=0)
    calls = []

    def sweep_layers(*_):
        calls.append("sweeps")
        return {"text to image": torch.zeros(2, 2)}

    def score_conditions(*_):
        calls.append("outcomes")
        return {query: {"random": torch.zeros(3, 1, 3)} for query in ("image", "text")}

    monkeypatch.setattr(seed_run, "sweep_layers", sweep_layers)
    monkeypatch.setattr(seed_run, "score_conditions", score_conditions)

    def run_seed(config=config):
        calls.clear()
        options = dict(max_items=(2, 3), folder=tmp_path, progress=False)
        seed_run.run_seed(model, tasks, config, **options)
        return calls.count("sweeps"), calls.count("outcomes")

    assert run_seed() == (2, 2)
    assert run_seed() == (0, 0)
    other = replace(config, template="{x} -> {y}\n")
    assert run_seed(other) == (2, 2)
    with perturb_weights(model):
        assert run_seed(other) == (2, 2)


def test_method_reports_are_cached_by_weights_and_instructions(
    tmp_path, llama, count_calls, evaluations
):
    extracted = count_calls(methods, "extract")
    options = dict(methods=["state"], shots=2, contexts=2, items=3, folder=tmp_path)

    def run_study(*tasks, **more):
        extracted.clear(), evaluations.clear()
        methods.run(llama, tasks or [DOUBLE, UPPER], progress=False, **options | more)
        return len(extracted), len(evaluations)

    assert run_study() == (2, 2)
    assert run_study() == (0, 0)
    assert run_study(replace(DOUBLE, instruction="Two of it:"), UPPER)[0] == 1
    assert run_study(DOUBLE, UPPER)[0] == 1
    with perturb_weights(llama):
        assert run_study() == (2, 2)
    assert run_study(template="arrow") == (2, 2)


def test_vector_reports_are_cached_by_weights_and_items(tmp_path, llama, evaluations):
    def run_study(*tasks, **options):
        evaluations.clear()
        options = dict(shots=2, contexts=2, folder=tmp_path, progress=False) | options
        vectors.run(llama, tasks or [DOUBLE, UPPER], **options)
        return len(evaluations)

    assert run_study() == 2
    assert run_study() == 0
    train = {x for x, _ in DOUBLE.split(seed=0)[0]}
    other = [(x, y if x in train else x + "!") for x, y in DOUBLE]
    assert run_study(replace(DOUBLE, pairs=other), UPPER) == 1, (
        "the same examples, other test items"
    )
    assert run_study(DOUBLE, UPPER) == 1
    with perturb_weights(llama):
        assert run_study() == 2


def test_damaged_report_is_computed_again_with_a_message(tmp_path, llama, evaluations, capsys):
    options = dict(shots=2, contexts=2, folder=tmp_path, progress=False)
    vectors.run(llama, [DOUBLE], **options)
    (entry,) = tmp_path.glob("double-*.json")
    entry.write_bytes(entry.read_bytes().replace(b"0.5", b"0.6"))
    evaluations.clear()
    vectors.run(llama, [DOUBLE], **options)
    assert len(evaluations) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tvlens: {entry} holds no VectorReport") and "again" in line


def test_mixture_checks_are_cached_by_weights_and_noise_models(tmp_path, llama, monkeypatch):
    """The check itself is a stub."""
    calls = []

    def stub(model, tasks, **options):
        calls.append(options)
        raise ArithmeticError

    study = mixtures.study
    monkeypatch.setattr(study, "retrieval_check", stub)
    keys = []

    def cached(path, content, compute, *, load):
        keys.append(cache.entry_path(path, load, content))
        raise ArithmeticError

    monkeypatch.setattr(study, "cached", cached)

    def key(tasks=(DOUBLE, UPPER), **options):
        with pytest.raises(ArithmeticError):
            mixtures.run(llama, [tasks], folder=tmp_path, progress=False, **options)
        return keys.pop()

    first = key()
    assert key() == first and key(batch_size=3) == first
    assert key(tasks=(DOUBLE, replace(UPPER, pairs=[(x, x + "?") for x in LETTERS]))) != first
    models = {"noise": lambda likelihood: likelihood}, {"noise": lambda likelihood: 2 * likelihood}
    assert len({first, *(key(posteriors=one) for one in models)}) == 3
    assert key(template="arrow") != first
    with perturb_weights(llama):
        assert key() != first


WORDS = (["cat", "dog", "bus", "red", "green"], ["one", "two", "three", "four", "five"])


def sample_texts(seed):
    """Sample a dataset of fixed name and size, whose texts depend on the seed."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 90).tolist()
    rows = [f"{rng.choice(WORDS[k])} {rng.choice(WORDS[k])} {i}" for i, k in enumerate(labels)]
    return LabelledDataset("texts", rows, labels, ["things", "numbers"])


def save_bert(folder, seed):
    torch.manual_seed(seed)
    hf.BertModel(hf.BertConfig(**tiny._TEXT)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def test_model_pairs_are_cached_by_base_and_rows(tmp_path):
    """Two base models with equal folder names, and two datasets of equal name and size."""

    def source(base, seed=0, **more):
        options = dict(readout=None, limit=60, seed=0, training={"epochs": 1}, progress=False)
        return matrices.model_pair.PairSource(
            sample_texts(seed), base, more.get("tuned"), folder=tmp_path / "finetuned", **options
        )

    one, other = save_bert(tmp_path / "a" / "model", 0), save_bert(tmp_path / "b" / "model", 1)
    copy = shutil.copytree(one, tmp_path / "c" / "model")
    keys = [source(one).content, source(other).content, source(one, seed=1).content]
    keys.append(source(one, tuned=one).content)
    keys.append(source(one, tuned=other).content)
    assert len({json.dumps(key) for key in keys}) == len(keys)
    assert source(str(copy)).content["weights"] == keys[0]["weights"]
    # A model object is known by its weights.
    weights = source(tv.load(one)).content["weights"]
    assert weights == source(tv.load(one)).content["weights"]
    assert weights != source(tv.load(other)).content["weights"]

    folders = set()
    for pair_source in (source(one), source(one), source(other), source(one, seed=1)):
        pair_source.load_pair()
        folders = {path.name for path in (tmp_path / "finetuned").iterdir()}
    assert len(folders) == 3


def test_dataset_results_are_cached_by_their_model_pair(tmp_path, count_calls, monkeypatch):
    monkeypatch.setitem(matrices.PRESETS, "tiny", matrices.Preset(None, 40, 1, (0,)))
    studied = count_calls(matrices.study, "analyze_dataset")
    one, other = save_bert(tmp_path / "a" / "model", 0), save_bert(tmp_path / "b" / "model", 1)
    options = dict(preset="tiny", folder=tmp_path / "out", progress=False)

    def run_study(base, tuned):
        studied.clear()
        matrices.run(base, tuned, sample_texts(0), **options)
        return len(studied)

    assert run_study(one, one) == 1
    assert run_study(one, one) == 0
    assert run_study(other, other) == 1

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(matrices.DatasetResult, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_study(one, one)
    assert run_study(other, other) == 0, "a failed save leaves the old result complete"
    assert run_study(one, one) == 1
