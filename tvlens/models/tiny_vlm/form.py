"""`Form`: what a tiny vision-language model is put together from."""

from dataclasses import dataclass

from ...errors import TvlensError

# By language model of the zoo: a token that no text holds.
PLACEHOLDERS = {"smollm2-135m": "<empty_output>", "gemma3-270m": "<unused0>"}


@dataclass(frozen=True)
class Form:
    """What a model is put together from.

    Attributes:
        language: Llama-like or Gemma-3-like model, by zoo name, folder or hub id.
        vision: ViT, likewise.
        layers: hidden states of the ViT that are read, side by side; 0 is the embedding.
        grid: patches are averaged in a grid of so many cells a side.
        tokens: soft tokens of a picture.
        hidden: units inside the projector; training gives every thing one.
        placeholder: a token of the language model that no text holds; by default a known one.

    Raises:
        TvlensError: no placeholder is known for this language model.
    """

    language: str = "smollm2-135m"
    vision: str = "dinov2-small"
    layers: tuple[int, ...] = (6, 7, 8, 9, 10, 11)
    grid: int = 1
    tokens: int = 4
    hidden: int = 844
    placeholder: str = ""

    def __post_init__(self) -> None:
        if not self.placeholder and self.language not in PLACEHOLDERS:
            raise TvlensError(
                f"no token is known that no text of {self.language} holds: give placeholder=, such "
                "as one of its special or unused tokens"
            )
        known = self.placeholder or PLACEHOLDERS[self.language]
        object.__setattr__(self, "placeholder", known)

    @property
    def seen(self) -> int:
        """States of a picture: the class token's, and a mean for every cell."""
        return 1 + self.grid**2
