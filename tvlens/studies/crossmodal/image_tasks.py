"""Tasks whose inputs are words and pictures, and the words that name what a task asks for."""

from collections.abc import Sequence

from ...errors import TvlensError
from ...tasks import Task
from ...vlm.image_pack import HELD_OUT_ARTIST, ImagePack

# The paper's tasks, in the form that facts about pictured things allow.
SIX = ("country-capital", "country-language", "animal-class", "animal-young")
SIX += ("food-color", "food-flavor")
ALL = (*SIX, "country-currency", "country-region", "country-demonym")

# Words that name what each task asks for: what the middle layers should be about.
_WORDS = {
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


def pictured(
    tasks: Sequence[str | Task], *, images: ImagePack | None = None, artist: str = HELD_OUT_ARTIST
) -> list[Task]:
    """Tasks with a picture of every input; inputs without one are left out.

    Args:
        tasks: names or tasks; those that bring pictures of their own keep them.
        pictures: named drawings; the pack by default.
        artist: whose hand is shown; by default the one that no training of ours sees.

    Raises:
        TvlensError: no task, twice the same name, or inputs of which none is drawn.
    """
    chosen = [task if isinstance(task, Task) else Task.load(task) for task in tasks]
    names = [task.name for task in chosen]
    if not chosen:
        raise TvlensError("no task to study")
    if len(set(names)) < len(names):
        raise TvlensError("two tasks have the same name")
    drawn = None
    found = []
    for task in chosen:
        if "image" not in task.modalities:
            drawn = drawn or (images or ImagePack.load()).where(artist=artist)
            task = task.with_images(drawn.match(x for x, _ in task))
        found.append(task)
    return found


def task_words(task: Task) -> tuple[str, ...]:
    """Words for what a task asks; for a task of one's own, the parts of its name."""
    return _WORDS.get(task.name) or tuple(task.name.replace("_", "-").split("-"))
