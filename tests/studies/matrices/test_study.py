"""The study of task matrices on planted datasets with tiny models."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
import transformers as hf

import tvlens as tv
from tvlens import LabelledDataset, TvlensError
from tvlens.models import classify
from tvlens.studies import matrices as study
from tvlens.studies.matrices.claims import group_by_verdict
from tvlens.training import load_finetuned

# One worker makes the study, once.
pytestmark = pytest.mark.xdist_group("matrices")

PRESET = study.Preset(None, 60, 6, (0,))
WORDS = ("cat dog bus red green house tree", "one two three four five six seven")


def sample_texts(name="planted", n=110, seed=0):
    """Sample texts of random words from one of two lists, which is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    texts = [" ".join(rng.choice(WORDS[k].split(), rng.integers(2, 6))) + f" {i}"
             for i, k in enumerate(labels)]  # fmt: skip
    return LabelledDataset(name, texts, labels.tolist(), ["things", "numbers"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of a tiny BERT without a head."""
    folder = tmp_path_factory.mktemp("base") / "bert"
    torch.manual_seed(0)
    hf.BertModel(hf.BertConfig(**tiny._TEXT)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def study_run(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    presets = pytest.MonkeyPatch()
    presets.setitem(study.PRESETS, "tiny", PRESET)
    sets = [sample_texts(), sample_texts("again", seed=1)]
    options = dict(preset="tiny", folder=folder, progress=False)
    yield study.run(base, data=sets, **options), sets, options, folder
    presets.undo()


def test_run_writes_one_table_over_all_datasets(study_run):
    result, _, _, folder = study_run
    table = result.to_dataframe()
    assert list(table.dataset) == ["planted", "again"]
    for name, dataset in result.datasets.items():
        row = table.set_index("dataset").loc[name]
        report = dataset.report
        is_right = report.predictions[0, 0] == report.labels
        assert row.task_matrix == pytest.approx(float(is_right.double().mean()))
        assert row.low <= row.task_matrix <= row.high
        assert row.difference == pytest.approx(row.task_matrix - row.probe)
        assert dataset.matrix.layer == row.layer and len(report.labels) == row.test
        # A choice on the test part cannot be worse there than one on other examples.
        assert row.oracle >= row.task_matrix and row.seeds == 1
        assert dataset.layers.r2.shape == (3, 3) and dataset.samples.sizes[-1] == row.train

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    report_json = (folder / "report.json").read_text()
    numbers = json.loads(report_json, parse_constant=refuse)
    assert list(numbers["datasets"]) == ["planted", "again"] and len(numbers["claims"]) == 2 * 7
    (shared,) = numbers["sharing"].values()
    assert shared["tasks"] == ["planted", "again"] and len(shared["rows"]) == 6
    single = {r["task"]: r for r in shared["rows"] if r["shared_by"] == r["task"]}
    assert all(row["difference"] == 0 and row["inside"] for row in single.values())
    assert "task matrix minus probe" in (folder / "index.html").read_text()


def test_every_dataset_has_one_verdict_per_method(study_run):
    results = list(study_run[0].datasets.values())
    for other in ("ridge_probe", "finetuned", "permuted"):
        assert sum(map(len, group_by_verdict(results, other).values())) == len(results)


def test_cached_datasets_are_not_computed_again(study_run, base, monkeypatch):
    result, sets, options, _ = study_run

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(study.study, "analyze_dataset", refuse)
    monkeypatch.setattr(study.model_pair, "finetune_pair", refuse)
    repeated = study.run(base, data=sets, **options)
    assert repeated.to_dataframe().equals(result.to_dataframe())
    assert repeated.claims == result.claims
    with pytest.raises(AssertionError, match="computed again"):
        study.run(base, data=sets, **options | {"seed": 1})


def test_several_finetunings_are_pooled(study_run, base, tmp_path):
    """The first finetuning equals the single one; intervals include finetunings."""
    result, sets, options, first_folder = study_run
    folder = shutil.copytree(first_folder, tmp_path / "seeds")
    pooled = study.run(base, data=sets[0], seeds=2, **options | {"folder": folder})
    row, report = pooled.to_dataframe().iloc[0], pooled.datasets["planted"].report
    assert len(list((folder / "finetuned").glob("planted-*"))) == 2 and row.seeds == 2
    single = result.datasets["planted"].report
    assert torch.equal(report.predictions[:1], single.predictions)
    accuracy = (report.predictions == report.labels).double().mean((0, 2))
    assert row.task_matrix == pytest.approx(float(accuracy[0]))
    finetuned = float(accuracy[report.methods.index("finetuned")])
    assert row.finetuned == pytest.approx(finetuned)
    assert row.low <= row.task_matrix <= row.high
    assert not pooled.sharing and "finetuned 2 times" in (folder / "index.html").read_text()


def test_lora_is_reported_beside_the_matrix(study_run, base, tmp_path):
    pytest.importorskip("peft")
    _, sets, options, _ = study_run
    result = study.run(base, data=sets[0], lora=2, **options | {"folder": tmp_path})
    report = result.datasets["planted"].report
    (adapted,) = (p for p in (tmp_path / "finetuned").iterdir()
                if load_finetuned(p).settings["lora"] == 2)  # fmt: skip
    test = sets[0].split(0)[2]
    assert len(test) == len(report.labels)
    classes = classify(load_finetuned(adapted).model(), test.inputs).argmax(1)
    assert torch.equal(classes, report.predictions[0, report.methods.index("lora")])
    assert result.to_dataframe().lora[0] == pytest.approx(report.accuracies["lora"])
    assert "LoRA of rank 2" in (tmp_path / "index.html").read_text()


def test_run_accepts_a_finetuned_model(study_run, base, tmp_path):
    """A classifier is read by its head, other models by a probe of their last states."""
    _, sets, options, folder = study_run
    (finetuned,) = (folder / "finetuned").glob("planted-*")
    classifier_options = options | {"folder": tmp_path / "given"}
    result = study.run(base, str(finetuned), sets[0], **classifier_options).datasets["planted"]
    assert result.facts["head"] == "classifier" and result.facts["readout"] == "mean"
    assert result.report.accuracy == study_run[0].datasets["planted"].report.accuracy
    bare = study.run(base, base, sets[0], **options | {"folder": tmp_path / "bare"})
    result = bare.datasets["planted"]
    assert result.facts["head"].startswith("ridge probe")
    # The finetuned model is the base itself: the map from its last layer is the identity.
    assert result.layers.r2[2, 2] > 0.999
    assert result.facts["weight_distance"] == 0


def test_bad_input_raises_one_line_errors(study_run, base, tmp_path):
    _, sets, options, _ = study_run
    with pytest.raises(TvlensError, match="unknown preset 'quik': did you mean 'quick'"):
        study.run(base, data=sets, **options | {"preset": "quik"})
    with pytest.raises(TvlensError, match="unknown dataset of a finetuned model 'plantd'"):
        study.run(base, {"plantd": base}, sets, **options)
    with pytest.raises(TvlensError, match="give its name or folder"):
        study.run(tv.load(base), data=sets, **options)
    with pytest.raises(TvlensError, match="omit the finetuned model"):
        study.run(base, base, sets, seeds=2, **options)
    with pytest.raises(TvlensError, match="rank of LoRA must be at least 1"):
        study.run(base, data=sets, lora=0, **options)
    with pytest.raises(TvlensError, match="no dataset"):
        study.run(base, data=[], **options)
    torch.manual_seed(0)
    three = hf.BertForSequenceClassification(hf.BertConfig(**tiny._TEXT, num_labels=3))
    three.save_pretrained(tmp_path / "three")
    tiny.tokenizer().save_pretrained(tmp_path / "three")
    with pytest.raises(TvlensError, match="has 3 classes, planted has 2"):
        study.run(base, str(tmp_path / "three"), sets[0], **options)
