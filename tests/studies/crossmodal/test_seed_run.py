import tiny_vision
import torch

from tvlens.studies.crossmodal import load_image_tasks
from tvlens.studies.crossmodal.conditions import ExtractionConfig
from tvlens.studies.crossmodal.seed_run import choose_layers, extract_vectors, split_task
from tvlens.tasks import Template


def test_extract_vectors_averages_sets():
    (task,) = load_image_tasks(["animal-class"])
    train, _, _ = split_task(task.subset(range(14)), (2, 4), seed=0)
    template = Template.of("qa").demonstration
    config = ExtractionConfig(shots=2, sets=2, contexts=2, template=template, seed=0)
    vectors = extract_vectors(tiny_vision.model("tiny-vlm"), train, config)
    sets = torch.stack([vectors[f"text {i}"].values for i in range(2)])
    torch.testing.assert_close(vectors["text"].values, sets.mean(0))
    assert vectors["text"].name == train.name and len(vectors["text"].examples) == len(train)


def test_split_task_cuts_validation_and_test_parts():
    (task,) = load_image_tasks(["animal-class"])
    split = split_task(task, (2, 4), seed=0)
    assert (len(split.validation), len(split.test)) == (2, 4)


def test_choose_layers_takes_the_first_best_mean_over_tasks():
    sweeps = {
        "a": {"text to image": torch.tensor([[0.0, 1.0, 0.5]])},
        "b": {"text to image": torch.tensor([[0.0, 0.0, 0.5]]), "text to text": torch.ones(1, 3)},
    }
    assert choose_layers(sweeps) == {"text to image": 1, "text to text": 0}
