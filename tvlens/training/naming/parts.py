"""What is learned from, and the three things that tests ask: a new hand, new things, and both."""

from ...errors import TvlensError
from ...pictures import HELD_OUT, Pictures


def split(
    pictures: Pictures, *, held_out: str = HELD_OUT, unseen: float = 0.1, seed: int = 0
) -> dict[str, Pictures]:
    """Four parts without a common picture: "train", and the three that tests name.

    Raises:
        TvlensError: no such artist, or a part would be empty.
    """
    pictures.where(artist=held_out)  # an unknown artist is an error
    things = pictures.held_out_things(share=unseen, seed=seed)
    cells: dict[tuple[bool, bool], list[int]] = {(a, t): [] for a in (0, 1) for t in (0, 1)}
    for i, (name, artist) in enumerate(zip(pictures.names, pictures.artists, strict=True)):
        cells[artist == held_out, name in things].append(i)
    names = {"train": (0, 0), "new_artist": (1, 0), "new_things": (0, 1), "new_both": (1, 1)}
    for name, cell in names.items():
        if not cells[cell]:
            raise TvlensError(f"no picture would be in the part {name!r}")
    return {name: pictures.subset(cells[cell]) for name, cell in names.items()}
