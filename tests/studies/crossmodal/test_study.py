import json

import numpy as np
import pytest
import tiny
import tiny_vision
import torch
from helpers import fail_if_called

import tvlens as tv
from tvlens import Task, TvlensError
from tvlens.models.forward import Batch, run
from tvlens.stats import share_interval
from tvlens.studies import crossmodal
from tvlens.studies.crossmodal import conflicts as against
from tvlens.studies.crossmodal.claims import claims
from tvlens.studies.crossmodal.conditions import CONDITIONS, MODALITIES, outcomes
from tvlens.studies.crossmodal.result import Share, TaskResult, summarised
from tvlens.studies.crossmodal.sources import Draws, _mislabelled, vectors_of
from tvlens.tasks import Template
from tvlens.vectors.conditions import zero_shot
from tvlens.vectors.scoring import lenient

# One worker makes the study, once.
pytestmark = pytest.mark.xdist_group("crossmodal")

DRAWS = Draws(shots=2, sets=2, contexts=2, template=Template.of("qa").demonstration, seed=0)


@pytest.fixture(scope="module")
def vlm():
    return tiny_vision.model("tiny-vlm")


@pytest.fixture(scope="module")
def tasks():
    names = ["animal-class", "food-color", "food-flavor"]
    return [task.subset(range(14)) for task in crossmodal.pictured(names)]


@pytest.fixture(scope="module")
def study(vlm, tasks, tmp_path_factory):
    preset = crossmodal.Preset((), seeds=2, selected=2, tested=4, sets=2, contexts=2)
    folder = tmp_path_factory.mktemp("crossmodal")
    options = dict(preset=preset, shots=2, folder=folder, progress=False, language_model=vlm)
    return crossmodal.run(vlm, tasks, **options), options


def test_every_condition_is_there_with_its_interval(study, tasks):
    found, options = study
    table = found.to_dataframe()
    assert len(table) == len(tasks) * len(MODALITIES) * len(CONDITIONS)
    assert ((table["low"] <= table["first"]) & (table["first"] <= table["high"])).all()
    # Two seeds of four items: an item scores three random vectors, and one of everything else.
    counts = table.set_index("condition")["n"]
    assert set(counts["other_patch"]) == {8} and set(counts["random"]) == {24}
    written = json.loads((options["folder"] / "report.json").read_text())
    assert set(written["tasks"]) == {task.name for task in tasks}
    assert {one["asked"] for one in written["conflicts"]} <= {"food-color", "food-flavor"}
    assert set(written["layers"].values()) <= {0, 1}


def test_an_interrupted_run_goes_on(study, vlm, tasks, monkeypatch):
    found, options = study

    for place in ("sources.extract", "seeded.sweeps", "seeded.outcomes"):
        monkeypatch.setattr(f"tvlens.studies.crossmodal.{place}", fail_if_called)
    again = crossmodal.run(vlm, tasks, **options)
    assert again.to_dataframe().equals(found.to_dataframe())


def test_the_page_carries_its_pictures(study):
    _, options = study
    page = (options["folder"] / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 * 12 + 3
    assert "https://" not in page.split("<script", 1)[0]
    tokens = [s for s in page.split("<script") if "ColoredTokens" in s and "tvlens-thumbnail" in s]
    assert len(tokens) == 1, "the prompt shows its pictures among its tokens"


def test_a_vector_out_of_words_is_written_where_it_should_be(vlm, tasks):
    """Against one item at a time, the vector applied by hand, and argmax over all logits."""
    train, select, test = tasks[0].split(seed=0)
    others = tasks[1].split(seed=0)
    vectors = {t.name: vectors_of(vlm, t, DRAWS) for t in (train, others[0])}
    ways = [f"{s} to {m}" for s in ("text", "image", "instruction", "ensemble") for m in MODALITIES]
    layers = dict.fromkeys(ways, 1) | {"text to image": 0}
    found = outcomes(vlm, train.name, vectors, (train, select, test), layers, DRAWS)
    words = vectors[train.name]["text"]
    wanted = []
    for prompt in zero_shot(vlm, Template.of("qa"), test, "image"):
        with words.applied(vlm, layer=0):
            logits = run(vlm, Batch.of(vlm, [prompt]))
        wanted.append(float(logits[0, -1].argmax() == prompt.answer[0]))
    assert found["image"]["other_patch"][:, 0, 0].tolist() == wanted
    assert found["image"]["random"].shape == (len(test), 3, 3)
    assert found["image"]["wrong_task"].shape == (len(test), 1, 3)
    sets = torch.stack([vectors[train.name][f"text {i}"].values for i in range(2)])
    torch.testing.assert_close(words.values, sets.mean(0))
    assert words.name == train.name and len(words.examples) == len(train)


def test_shuffled_labels_are_others_labels(tasks):
    """Of few classes too: by place alone, a label of four kept .2 of its places."""
    for seed in range(20):
        for task in (*tasks, Task("names", [(x, x) for x, _ in tasks[0]])):
            mixed = _mislabelled(task, seed=seed)
            assert [x for x, _ in mixed] == [x for x, _ in task]
            assert all(a != b for (_, a), (_, b) in zip(mixed, task, strict=True))
            assert {y for _, y in mixed} <= {y for _, y in task}
    names = Task("names", [(x, x) for x, _ in tasks[0]])
    assert sorted(y for _, y in _mislabelled(names, seed=3)) == sorted(y for _, y in names)
    with pytest.raises(TvlensError, match="a task needs two labels"):
        _mislabelled(Task("one", [("a", "y"), ("b", "y")]), seed=0)


def test_conflicts_ask_only_items_that_both_tasks_answer(vlm):
    foods = crossmodal.pictured(["food-color", "food-flavor"])
    parts = {task.name: task.split(seed=0) for task in foods}
    train, own, rival = against._common(parts, "food-color", "food-flavor")
    known = {x for part in parts["food-flavor"][1:] for x, _ in part}
    assert {x for x, _ in own} <= known and [x for x, _ in own] == [x for x, _ in rival]
    assert not {x for x, _ in train} & {x for x, _ in own}
    same = {"a": parts["food-color"], "b": parts["food-color"]}
    vectors = {name: {"text": tv.TaskVector(torch.zeros(2, 32))} for name in same}
    assert against.conflicts(vlm, same, vectors, 0, DRAWS) == [], "two names, the same answers"


def test_the_papers_measure_is_lenient():
    assert lenient(" C", "Canberra") and lenient(" Canberra is", " Canberra")
    assert not lenient(" D", "Canberra") and not lenient(" ", "Canberra")


def share(value: float, half: float = 0.05) -> Share:
    ends = ({"first": value - half}, {"first": value + half})
    return Share({"first": value}, *ends, [value], 10)


def planted(**image: float) -> TaskResult:
    values = dict(no_context=0, random=0, wrong_task=0, most_common=0.1, same_patch=0.1)
    values |= dict(other_few_shot=0.1, ensemble_patch=0.3, one_set_patch=0.3, other_patch=0.5)
    shares = {name: share(value) for name, value in (values | image).items()}
    words = {name: share(value) for name, value in dict(values, same_few_shot=0.8).items()}
    return TaskResult("planted", {"image": shares, "text": words}, {}, (1, 1, 1))


def test_claims_follow_the_numbers():
    class Study:
        shape, phases, conflicts = None, {}, []

        def __init__(self, *tasks):
            self.tasks = dict(enumerate(tasks))

    def verdict(*tasks, which=0):
        return claims(Study(*tasks))[which].verdict

    assert verdict(planted()) == "holds"
    assert verdict(planted(wrong_task=0.45)) == "not seen"
    assert verdict(planted(), planted(random=0.5)) == "mixed"
    assert verdict(planted(), which=1) == "holds"
    assert verdict(planted(other_few_shot=0.45), which=1) == "mixed"
    assert verdict(planted(other_few_shot=0.6), which=1) == "not seen"
    unable = planted()
    unable.shares["text"]["same_few_shot"] = share(0.2)
    assert verdict(unable) == "not seen" and len(claims(Study(unable))) == 1
    constant = planted()
    constant.shares["text"]["most_common"] = share(1.0)
    assert constant.constant and not constant.able and len(claims(Study(constant))) == 1


def test_an_items_seeds_are_averaged_before_items_are_resampled():
    ones, zeros = torch.ones(2, 1, 3), torch.zeros(2, 1, 3)
    found = summarised([["a", "b"], ["a", "b"]], [ones.double(), zeros.double()])
    assert found.value["first"] == 0.5
    # Two items, whatever their seeds: the Wilson interval of one of two.
    assert (found.low["first"], found.high["first"]) == share_interval([0, 1])
    assert found.seeds == [1.0, 0.0] and found.count == 4


def test_add_images_keeps_pairs_with_an_image():
    for name, least in {"country-capital": 100, "food-color": 60, "animal-young": 60}.items():
        (task,) = crossmodal.pictured([name])
        assert len(task) >= least and task.modalities == ("text", "image")
    own = Task("mine", [("lion", "roar")], images={"lion": tiny_vision.random_image(0)})
    assert crossmodal.pictured([own]) == [own]


def test_mistakes_are_named(vlm, tasks):
    with pytest.raises(TvlensError, match="reads text alone"):
        crossmodal.run(tiny.model("gpt2"), tasks)
    with pytest.raises(TvlensError, match="unknown preset"):
        crossmodal.run(vlm, tasks, preset="quik")
    with pytest.raises(TvlensError, match="two tasks have the same name"):
        crossmodal.pictured([tasks[0], tasks[0]])
    with pytest.raises(TvlensError, match="none of its inputs has an image"):
        crossmodal.pictured(["antonym"])
    with pytest.raises(TvlensError, match="did you mean 'noto'"):
        crossmodal.pictured(["food-color"], artist="nota")
    with pytest.raises(TvlensError, match="'device_map' is for models that are loaded by name"):
        tv.load(vlm, device_map="auto")


def test_thumbnails_are_small_and_keep_their_shape():
    import io

    from PIL import Image as Pillow

    wide = tv.Image("wide", np.zeros((50, 200, 3), np.uint8))
    with Pillow.open(io.BytesIO(wide.render_thumbnail(size=40))) as opened:
        assert opened.size == (40, 10)
