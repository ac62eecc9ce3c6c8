import tiny_vision
import torch

import tvlens as tv
from tvlens.studies.crossmodal import load_image_tasks
from tvlens.studies.crossmodal.analyses import common_items, find_conflicts
from tvlens.studies.crossmodal.conditions import ExtractionConfig, TaskSplit
from tvlens.studies.crossmodal.seed_run import SeedRun
from tvlens.tasks import Template

CONFIG = ExtractionConfig(
    shots=2, sets=2, contexts=2, template=Template.of("qa").demonstration, seed=0
)


def seed_run(splits, vectors=()):
    return SeedRun(CONFIG, splits, dict(vectors), {}, {"text to image": 0}, {})


def test_common_items_leaves_out_items_of_the_other_extraction():
    tasks = load_image_tasks(["food-color", "food-flavor"])
    splits = {task.name: TaskSplit(*task.split(seed=0)) for task in tasks}
    color, flavor = common_items(seed_run(splits), "food-color", "food-flavor")
    available = {x for part in splits["food-flavor"][1:] for x, _ in part}
    assert {x for x, _ in color} <= available
    assert [x for x, _ in color] == [x for x, _ in flavor]
    assert not {x for x, _ in splits["food-color"].train} & {x for x, _ in color}


def test_find_conflicts_skips_tasks_with_the_same_answers():
    (task,) = load_image_tasks(["food-color"])
    split = TaskSplit(*task.split(seed=0))
    splits = {"a": split, "food-color": split}
    vectors = {name: {"text": tv.TaskVector(torch.zeros(2, 32))} for name in splits}
    model = tiny_vision.model("tiny-vlm")
    assert find_conflicts(model, seed_run(splits, vectors)) == []
