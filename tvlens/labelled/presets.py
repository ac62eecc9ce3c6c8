"""Sets of the literature by the names that papers give them, and where a hub keeps them."""

from typing import NamedTuple


class Preset(NamedTuple):
    """Where a set is, and which of its columns are what."""

    source: str
    input: str
    label: str
    config: str | None = None
    second: str | None = None


# The eight vision sets of task arithmetic (Ilharco et al. 2023) and of task matrices.
VISION = {
    "cars": Preset("tanganke/stanford_cars", "image", "label"),
    "dtd": Preset("tanganke/dtd", "image", "label"),
    "eurosat": Preset("tanganke/eurosat", "image", "label"),
    "gtsrb": Preset("tanganke/gtsrb", "image", "label"),
    "mnist": Preset("ylecun/mnist", "image", "label"),
    "resisc45": Preset("tanganke/resisc45", "image", "label"),
    "sun397": Preset("tanganke/sun397", "image", "label"),
    "svhn": Preset("ufldl-stanford/svhn", "image", "label", "cropped_digits"),
}

# GLUE (Wang et al. 2019) without its regression. Of pairs, both texts are read.
GLUE = {
    "cola": Preset("nyu-mll/glue", "sentence", "label", "cola"),
    "mnli": Preset("nyu-mll/glue", "premise", "label", "mnli", "hypothesis"),
    "mrpc": Preset("nyu-mll/glue", "sentence1", "label", "mrpc", "sentence2"),
    "qnli": Preset("nyu-mll/glue", "question", "label", "qnli", "sentence"),
    "qqp": Preset("nyu-mll/glue", "question1", "label", "qqp", "question2"),
    "rte": Preset("nyu-mll/glue", "sentence1", "label", "rte", "sentence2"),
    "sst2": Preset("nyu-mll/glue", "sentence", "label", "sst2"),
    "wnli": Preset("nyu-mll/glue", "sentence1", "label", "wnli", "sentence2"),
}

PRESETS = VISION | GLUE
