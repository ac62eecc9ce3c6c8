"""`Pictures`: drawings of named things by several artists, out of the pack or of one's own."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from ..errors import TvlensError, unknown

_FOLDER = resources.files("tvlens.pictures")
_PACK = _FOLDER / "pictures.parquet"
_OTHER_NAMES = _FOLDER / "other_names.json"

# The artist whose hand no training sees.
HELD_OUT = "noto"


@dataclass(frozen=True)
class Pictures:
    """Drawings, one a row; a thing stands there once for every artist who drew it.

    Attributes:
        names: what each shows ("red apple", "France").
        kinds: "animal", "food", "flag", "object" or "plant".
        artists: whose hand it is.
        files: the PNG files, with alpha.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    artists: tuple[str, ...]
    files: tuple[bytes, ...]

    @classmethod
    def load(cls) -> "Pictures":
        """The pack: see NOTICE for the artists and their licences."""
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(_PACK.read_bytes())).to_pydict()
        columns = (table[name] for name in ("name", "kind", "artist", "picture"))
        return cls(*map(tuple, columns))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Pictures({len(self)}: {len(set(self.names))} things by {len(self.hands)} artists)"

    @property
    def hands(self) -> list[str]:
        """The artists, sorted."""
        return sorted(set(self.artists))

    def read_pixels(self, row: int) -> np.ndarray:
        """One drawing as `uint8 [height, width, 4]`, straight alpha."""
        from PIL import Image

        with Image.open(io.BytesIO(self.files[row])) as opened:
            return np.asarray(opened.convert("RGBA"))

    def subset(self, rows: Iterable[int]) -> "Pictures":
        """Only these rows, in this order."""
        rows = list(rows)
        columns = (self.names, self.kinds, self.artists, self.files)
        return Pictures(*(tuple(column[i] for i in rows) for column in columns))

    def where(
        self,
        *,
        artist: str | None = None,
        kind: str | None = None,
        names: Sequence[str] | None = None,
    ) -> "Pictures":
        """The drawings of one artist, of one kind, or of some things.

        Raises:
            TvlensError: no such artist, kind or thing.
        """
        for what, wanted, known in (
            ("artist", [artist], self.artists),
            ("kind of picture", [kind], self.kinds),
            ("picture", names or [None], self.names),
        ):
            for one in wanted:
                if one is not None and one not in known:
                    raise unknown(what, one, sorted(set(known)))
        chosen = None if names is None else set(names)
        return self.subset(
            i
            for i in range(len(self))
            if artist in (None, self.artists[i])
            and kind in (None, self.kinds[i])
            and (chosen is None or self.names[i] in chosen)
        )

    def by_name(self) -> dict[str, bytes]:
        """From each thing to its drawing, as `Task(images=...)` takes it.

        Raises:
            TvlensError: two drawings of one thing; choose an artist first.
        """
        found = dict(zip(self.names, self.files, strict=True))
        if len(found) < len(self):
            raise TvlensError(
                "several artists drew the same things: choose one, "
                f"such as .where(artist={self.artists[0]!r})"
            )
        return found

    def of(self, words: Iterable[str]) -> dict[str, bytes]:
        """A drawing for each word that names a drawn thing, as `Task(images=...)` takes it.

        A thing is found by its other names too ("cherry" is shown by "cherries").

        Raises:
            TvlensError: two drawings of one thing; choose an artist first.
        """
        drawn, other = self.by_name(), json.loads(_OTHER_NAMES.read_text())
        things = {word: word if word in drawn else other.get(word) for word in words}
        return {word: drawn[thing] for word, thing in things.items() if thing in drawn}

    def held_out_things(self, *, share: float = 0.1, seed: int = 0) -> frozenset[str]:
        """A random share of the things of every kind, for training to leave out."""
        rng = np.random.default_rng(seed)
        by_kind: dict[str, list[str]] = {}
        for name, kind in sorted(set(zip(self.names, self.kinds, strict=True))):
            by_kind.setdefault(kind, []).append(name)
        return frozenset(
            name
            for _, names in sorted(by_kind.items())
            for name in rng.choice(names, round(share * len(names)), replace=False).tolist()
        )
