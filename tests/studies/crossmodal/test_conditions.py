import pytest
import tiny_vision
import torch

from tvlens import Task, TvlensError
from tvlens.models.forward import Batch, run
from tvlens.stats import share_interval
from tvlens.studies.crossmodal import load_image_tasks
from tvlens.studies.crossmodal.conditions import (
    MODALITIES,
    ExtractionConfig,
    TaskSplit,
    score_conditions,
    shuffle_labels,
    summarize_outcomes,
)
from tvlens.studies.crossmodal.seed_run import extract_vectors
from tvlens.tasks import Template
from tvlens.vectors.conditions import build_zero_shot
from tvlens.vectors.scoring import lenient

CONFIG = ExtractionConfig(
    shots=2, sets=2, contexts=2, template=Template.of("qa").demonstration, seed=0
)


@pytest.fixture(scope="module")
def tasks():
    names = ["animal-class", "food-color", "food-flavor"]
    return [task.subset(range(14)) for task in load_image_tasks(names)]


def test_score_conditions_writes_the_text_vector_at_its_layer(tasks):
    """Against one item at a time, `applied`, and the argmax of all logits."""
    vlm = tiny_vision.model("tiny-vlm")
    split = TaskSplit(*tasks[0].split(seed=0))
    other = tasks[1].split(seed=0)[0]
    vectors = {task.name: extract_vectors(vlm, task, CONFIG) for task in (split.train, other)}
    sources = ("text", "image", "instruction", "ensemble")
    layers = {f"{source} to {query}": 1 for source in sources for query in MODALITIES}
    layers["text to image"] = 0
    outcomes = score_conditions(vlm, split, vectors, layers, CONFIG)
    text_vector = vectors[split.train.name]["text"]
    expected = []
    for prompt in build_zero_shot(vlm, Template.of("qa"), split.test, "image"):
        with text_vector.applied(vlm, layer=0):
            logits = run(vlm, Batch.of(vlm, [prompt]))
        expected.append(float(logits[0, -1].argmax() == prompt.answer[0]))
    assert outcomes["image"]["other_patch"][:, 0, 0].tolist() == expected
    assert outcomes["image"]["random"].shape == (len(split.test), 3, 3)
    assert outcomes["image"]["wrong_task"].shape == (len(split.test), 1, 3)


def test_shuffle_labels_gives_every_input_a_wrong_label(tasks):
    for seed in range(20):
        for task in (*tasks, Task("names", [(x, x) for x, _ in tasks[0]])):
            shuffled = shuffle_labels(task, seed=seed)
            assert [x for x, _ in shuffled] == [x for x, _ in task]
            assert all(a != b for (_, a), (_, b) in zip(shuffled, task, strict=True))
            assert {y for _, y in shuffled} <= {y for _, y in task}


def test_shuffle_labels_permutes_unique_labels(tasks):
    task = Task("names", [(x, x) for x, _ in tasks[0]])
    labels = [y for _, y in shuffle_labels(task, seed=3)]
    assert sorted(labels) == sorted(y for _, y in task)


def test_shuffle_labels_needs_two_labels():
    with pytest.raises(TvlensError, match="a task needs two labels"):
        shuffle_labels(Task("one", [("a", "y"), ("b", "y")]), seed=0)


def test_lenient_accepts_prefixes_both_ways():
    assert lenient(" C", "Canberra") and lenient(" Canberra is", " Canberra")
    assert not lenient(" D", "Canberra") and not lenient(" ", "Canberra")


def test_summarize_outcomes_averages_the_seeds_of_an_item_first():
    ones, zeros = torch.ones(2, 1, 3), torch.zeros(2, 1, 3)
    result = summarize_outcomes([["a", "b"], ["a", "b"]], [ones.double(), zeros.double()])
    assert result.accuracy == 0.5
    # Two items, whatever their seeds: the Wilson interval of one of two.
    assert result.interval == share_interval([0, 1])
    assert result.by_seed == [1.0, 0.0] and result.count == 4
