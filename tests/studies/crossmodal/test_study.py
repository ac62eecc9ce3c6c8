import json

import pytest
import tiny
import tiny_vision

import tvlens as tv
from tvlens import TvlensError
from tvlens.studies import crossmodal
from tvlens.studies.claims import read_claims
from tvlens.studies.crossmodal import seed_run
from tvlens.studies.crossmodal.conditions import CONDITIONS, MODALITIES

# One worker makes the study, once.
pytestmark = pytest.mark.xdist_group("crossmodal")


@pytest.fixture(scope="module")
def vlm():
    return tiny_vision.model("tiny-vlm")


@pytest.fixture(scope="module")
def tasks():
    names = ["animal-class", "food-color", "food-flavor"]
    return [task.subset(range(14)) for task in crossmodal.load_image_tasks(names)]


@pytest.fixture(scope="module")
def study(vlm, tasks, tmp_path_factory):
    preset = crossmodal.Preset((), seeds=2, validation_items=2, test_items=4, sets=2, contexts=2)
    folder = tmp_path_factory.mktemp("crossmodal")
    options = dict(preset=preset, shots=2, folder=folder, progress=False, language_model=vlm)
    return crossmodal.run(vlm, tasks, **options), options


def test_to_dataframe_has_every_condition_with_its_interval(study, tasks):
    result, _ = study
    table = result.to_dataframe()
    assert len(table) == len(tasks) * len(MODALITIES) * len(CONDITIONS)
    assert ((table["low"] <= table["first"]) & (table["first"] <= table["high"])).all()
    # Two seeds of four items; an item has three random vectors and one of everything else.
    counts = table.set_index("condition")["count"]
    assert set(counts["other_patch"]) == {8} and set(counts["random"]) == {24}


def test_report_holds_all_numbers(study, tasks):
    result, options = study
    path = options["folder"] / "report.json"
    report = json.loads(path.read_text())
    assert set(report["tasks"]) == {task.name for task in tasks}
    assert {c["prompted"] for c in report["conflicts"]} <= {"food-color", "food-flavor"}
    assert set(report["layers"].values()) <= {0, 1}
    assert read_claims(path) == result.claims


def test_run_reads_what_an_interrupted_run_cached(study, vlm, tasks, monkeypatch):
    result, options = study

    def fail(*_, **__):
        raise AssertionError("this was cached")

    for name in ("extract", "sweep_layers", "score_conditions"):
        monkeypatch.setattr(seed_run, name, fail)
    repeated = crossmodal.run(vlm, tasks, **options)
    assert repeated.to_dataframe().equals(result.to_dataframe())


def test_page_contains_its_images(study):
    _, options = study
    page = (options["folder"] / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 * 12 + 3
    assert "https://" not in page.split("<script", 1)[0]
    tokens = [s for s in page.split("<script") if "ColoredTokens" in s and "tvlens-thumbnail" in s]
    assert len(tokens) == 1, "the prompt shows its images among its tokens"


def test_bad_input_raises_one_line_errors(vlm, tasks):
    with pytest.raises(TvlensError, match="reads text alone"):
        crossmodal.run(tiny.model("gpt2"), tasks)
    with pytest.raises(TvlensError, match="unknown preset"):
        crossmodal.run(vlm, tasks, preset="quik")
    with pytest.raises(TvlensError, match="'device_map' is for models that are loaded by name"):
        tv.load(vlm, device_map="auto")
