"""A pack of pictures: the same animals, foods, flags and objects by ten artists."""

from .pictures import HELD_OUT, Pictures

__all__ = ["HELD_OUT", "Pictures"]
