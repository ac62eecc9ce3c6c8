"""Tasks whose inputs are shown as text or as images."""

from collections.abc import Sequence

from ...errors import TvlensError
from ...tasks import Task
from ...vlm.image_pack import HELD_OUT_ARTIST, ImagePack

# The paper's tasks, as far as their inputs can be drawn.
SIX_TASKS = ("country-capital", "country-language", "animal-class", "animal-young")
SIX_TASKS += ("food-color", "food-flavor")
ALL_TASKS = (*SIX_TASKS, "country-currency", "country-region", "country-demonym")

# Words that name what each task asks for.
_TASK_WORDS = {
    "country-capital": ("capital", "city"),
    "country-currency": ("currency", "money"),
    "country-language": ("language", "languages"),
    "country-region": ("continent", "region"),
    "country-demonym": ("nationality", "people"),
    "animal-class": ("class", "animal", "species"),
    "animal-young": ("young", "baby"),
    "food-color": ("color", "colour"),
    "food-flavor": ("flavor", "taste"),
}


def load_image_tasks(
    tasks: Sequence[str | Task], *, images: ImagePack | None = None, artist: str = HELD_OUT_ARTIST
) -> list[Task]:
    """Load tasks and add an image to every input; inputs without an image are dropped.

    Args:
        tasks: names or tasks; tasks that have images keep their own.
        images: images of named categories; the packaged ones by default.
        artist: artist of the images; by default the one absent from training.

    Raises:
        TvlensError: no task, two tasks of one name, or a task without any input in `images`.
    """
    loaded = [task if isinstance(task, Task) else Task.load(task) for task in tasks]
    names = [task.name for task in loaded]
    if not loaded:
        raise TvlensError("no task to study")
    if len(set(names)) < len(names):
        raise TvlensError("two tasks have the same name")
    if all("image" in task.modalities for task in loaded):
        return loaded
    by_artist = (images or ImagePack.load()).where(artist=artist)
    return [
        task
        if "image" in task.modalities
        else task.with_images(by_artist.match(x for x, _ in task))
        for task in loaded
    ]


def task_words(task: Task) -> tuple[str, ...]:
    """Words that name what a task asks for; by default the parts of the task's name."""
    return _TASK_WORDS.get(task.name) or tuple(task.name.replace("_", "-").split("-"))
