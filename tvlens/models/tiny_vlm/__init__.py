"""A small vision-language model after LLaVA: frozen encoder, projector, frozen language model.

A picture becomes a handful of soft tokens: vectors in the language model's embedding space that
stand in the prompt where placeholder tokens hold their places. From there on it is the language
model, block by block, so everything that works on that model works here.

Source: Liu et al. 2023, "Visual Instruction Tuning", section 4.1 (only the projector is trained).
"""

from .assembly import (
    SETTINGS,
    WEIGHTS,
    assemble,
    fitted,
    is_saved,
    open_saved,
    processor_of,
    save,
)
from .eye import Eye, Projector
from .form import Form
from .pictured import Pictured, PicturedGemma3, PicturedLlama

__all__ = [
    "SETTINGS",
    "WEIGHTS",
    "Eye",
    "Form",
    "Pictured",
    "PicturedGemma3",
    "PicturedLlama",
    "Projector",
    "assemble",
    "fitted",
    "is_saved",
    "open_saved",
    "processor_of",
    "save",
]
