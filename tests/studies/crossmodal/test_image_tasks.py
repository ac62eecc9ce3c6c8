import pytest
import tiny_vision

from tvlens import Task, TvlensError
from tvlens.studies.crossmodal import load_image_tasks

pytestmark = pytest.mark.no_arithmetic


@pytest.mark.parametrize(
    "name, least", [("country-capital", 100), ("food-color", 60), ("animal-young", 60)]
)
def test_load_image_tasks_keeps_inputs_with_an_image(name, least):
    (task,) = load_image_tasks([name])
    assert len(task) >= least and task.modalities == ("text", "image")


def test_load_image_tasks_keeps_own_images():
    task = Task("mine", [("lion", "roar")], images={"lion": tiny_vision.random_image(0)})
    assert load_image_tasks([task]) == [task]


def test_load_image_tasks_raises_one_line_errors():
    with pytest.raises(TvlensError, match="two tasks have the same name"):
        load_image_tasks(["food-color", "food-color"])
    with pytest.raises(TvlensError, match="none of its inputs has an image"):
        load_image_tasks(["antonym"])
    with pytest.raises(TvlensError, match="did you mean 'noto'"):
        load_image_tasks(["food-color"], artist="nota")
