"""The study of task matrices on planted problems with tiny twins."""

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
from tvlens.studies.matrices.claims import verdicts
from tvlens.training import load_finetuned

# One worker makes the study, once.
pytestmark = pytest.mark.xdist_group("matrices")

PRESET = study.Preset(None, 60, 6, (0,))
WORDS = ("cat dog bus red green house tree", "one two three four five six seven")


def planted(name="planted", n=110, seed=0):
    """Texts of random words from one list or the other, which is their class."""
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
def made(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    presets = pytest.MonkeyPatch()
    presets.setitem(study.PRESETS, "tiny", PRESET)
    sets = [planted(), planted("again", seed=1)]
    options = dict(preset="tiny", folder=folder, progress=False)
    yield study.run(base, data=sets, **options), sets, options, folder
    presets.undo()


def test_one_table_over_all_datasets(made):
    found, _, _, folder = made
    table = found.to_dataframe()
    assert list(table.dataset) == ["planted", "again"]
    for name, case in found.cases.items():
        line = table.set_index("dataset").loc[name]
        report = case.report
        assert line.task_matrix == pytest.approx(float((report.decisions[0, 0] == report.labels)
                                                       .double().mean()))  # fmt: skip
        assert line.low <= line.task_matrix <= line.high
        assert line.lead == pytest.approx(line.task_matrix - line.base_probe)
        assert case.matrix.layer == line.layer and len(report.labels) == line.test
        # No choice on the test part can be beaten by one that did not see it.
        assert line.oracle >= line.task_matrix and line.seeds == 1
        assert case.layers.r2.shape == (3, 3) and case.samples.sizes[-1] == line.train

    def never(constant):
        raise AssertionError(f"{constant} is no JSON")

    written = (folder / "report.json").read_text()
    numbers = json.loads(written, parse_constant=never)
    assert list(numbers["datasets"]) == ["planted", "again"] and len(numbers["claims"]) == 7
    (shared,) = numbers["sharing"].values()
    assert shared["tasks"] == ["planted", "again"] and len(shared["rows"]) == 6
    own = {r["task"]: r for r in shared["rows"] if r["shared_by"] == r["task"]}
    assert all(row["lead"] == 0 and row["inside"] for row in own.values())
    assert "lead of the task matrix over the probe" in (folder / "index.html").read_text()


def test_every_dataset_has_one_verdict(made):
    cases = list(made[0].cases.values())
    for other in ("ridge_probe", "finetuned", "permuted"):
        assert sum(map(len, verdicts(cases, other).values())) == len(cases)


def test_finished_datasets_are_not_studied_again(made, base, monkeypatch):
    found, sets, options, _ = made

    def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(study.study, "study", never)
    monkeypatch.setattr(study.twins, "made_twins", never)
    again = study.run(base, data=sets, **options)
    assert again.to_dataframe().equals(found.to_dataframe())
    assert json.dumps([c._asdict() for c in again.claims()]) == json.dumps(
        [c._asdict() for c in found.claims()]
    )
    with pytest.raises(AssertionError, match="made again"):
        study.run(base, data=sets, **options | {"seed": 1})


def test_several_finetunings_are_pooled(made, base, tmp_path):
    """The first is the one that was made alone; intervals are over finetunings too."""
    found, sets, options, there = made
    folder = shutil.copytree(there, tmp_path / "seeds")
    again = study.run(base, data=sets[0], seeds=2, **options | {"folder": folder})
    line, report = again.to_dataframe().iloc[0], again.cases["planted"].report
    assert len(list((folder / "twins").glob("planted-*"))) == 2 and line.seeds == 2
    alone = found.cases["planted"].report
    assert torch.equal(report.decisions[:1], alone.decisions)
    right = (report.decisions == report.labels).double().mean(-1)
    assert line.task_matrix == pytest.approx(float(right[:, 0].mean()))
    assert line.finetuned == pytest.approx(float(right[:, report.names.index("finetuned")].mean()))
    assert line.low <= line.task_matrix <= line.high
    assert not again.sharing and "finetuned 2 times" in (folder / "index.html").read_text()


def test_adapters_beside_the_matrix(made, base, tmp_path):
    pytest.importorskip("peft")
    _, sets, options, _ = made
    found = study.run(base, data=sets[0], lora=2, **options | {"folder": tmp_path})
    report = found.cases["planted"].report
    (place,) = (p for p in (tmp_path / "twins").iterdir()
                if load_finetuned(p).settings["lora"] == 2)  # fmt: skip
    test = sets[0].split(0)[2]
    assert len(test) == len(report.labels)
    decided = classify(load_finetuned(place).model(), test.inputs).argmax(1)
    assert torch.equal(decided, report.decisions[0, report.names.index("lora")])
    assert found.to_dataframe().lora[0] == pytest.approx(report.accuracy("lora"))
    assert "LoRA of rank 2" in (tmp_path / "index.html").read_text()


def test_a_twin_at_hand(made, base, tmp_path):
    """A classifier decides by its own head, a twin without one by a probe of its last states."""
    _, sets, options, folder = made
    (place,) = (folder / "twins").glob("planted-*")
    own = options | {"folder": tmp_path / "own"}
    found = study.run(base, str(place), sets[0], **own)
    assert found.cases["planted"].facts["decides"] == "classifier"
    assert found.cases["planted"].facts["readout"] == "mean"
    assert found.cases["planted"].report.accuracy() == made[0].cases["planted"].report.accuracy()
    bare = study.run(base, base, sets[0], **options | {"folder": tmp_path / "bare"})
    case = bare.cases["planted"]
    assert case.facts["decides"].startswith("ridge probe")
    # A twin that is the base itself: the map from its last layer is the identity.
    assert case.layers.r2[2, 2] > 0.999
    assert case.facts["weights moved"] == 0


def test_bad_input(made, base, tmp_path):
    _, sets, options, _ = made
    with pytest.raises(TvlensError, match="unknown preset 'quik': did you mean 'quick'"):
        study.run(base, data=sets, **options | {"preset": "quik"})
    with pytest.raises(TvlensError, match="unknown dataset of a tuned model 'plantd'"):
        study.run(base, {"plantd": base}, sets, **options)
    with pytest.raises(TvlensError, match="give its name or folder"):
        study.run(tv.load(base), data=sets, **options)
    with pytest.raises(TvlensError, match="leave the tuned model out"):
        study.run(base, base, sets, seeds=2, **options)
    with pytest.raises(TvlensError, match="rank of LoRA must be at least 1"):
        study.run(base, data=sets, lora=0, **options)
    with pytest.raises(TvlensError, match="no dataset"):
        study.run(base, data=[], **options)
    torch.manual_seed(0)
    three = hf.BertForSequenceClassification(hf.BertConfig(**tiny._TEXT, num_labels=3))
    three.save_pretrained(tmp_path / "three")
    tiny.tokenizer().save_pretrained(tmp_path / "three")
    with pytest.raises(TvlensError, match="knows 3 classes, planted has 2"):
        study.run(base, str(tmp_path / "three"), sets[0], **options)
