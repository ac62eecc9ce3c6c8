"""Tasks as input-output pairs, and prompts whose token positions are known by construction."""

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
