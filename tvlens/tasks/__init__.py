"""Tasks as input-output pairs, and prompts whose token positions are known by construction.

Example:
    >>> task = tv.tasks.Task("plural", [(c + "at", c + "ats") for c in "bcfhmprsv"])
    >>> [len(part) for part in task.split(seed=0)]
    [...]
"""

from .image import Image, Modality
from .prompt import Pair, Prompt, beginning_token, build, contexts, plain
from .shuffle import Shown, shuffled_labels
from .task import Task
from .template import TEMPLATES, Template

__all__ = [
    "TEMPLATES",
    "Image",
    "Modality",
    "Pair",
    "Prompt",
    "Shown",
    "Task",
    "Template",
    "beginning_token",
    "build",
    "contexts",
    "plain",
    "shuffled_labels",
]
