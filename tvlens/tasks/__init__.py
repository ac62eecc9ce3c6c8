"""Tasks as input-output pairs, and prompts whose token positions are known by construction."""

from .prompt import Prompt, beginning_token, build, contexts, shuffled_labels
from .task import Task
from .template import TEMPLATES, Template

__all__ = [
    "TEMPLATES",
    "Prompt",
    "Task",
    "Template",
    "beginning_token",
    "build",
    "contexts",
    "shuffled_labels",
]
