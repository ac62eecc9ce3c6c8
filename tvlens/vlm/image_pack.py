"""`ImagePack`: images of named categories by several artists, packaged or the user's own."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from ..errors import TvlensError, unknown

_FOLDER = resources.files("tvlens.vlm")
_IMAGES = _FOLDER / "images.parquet"
_SYNONYMS = _FOLDER / "synonyms.json"

# The artist whose images are left out of training.
HELD_OUT_ARTIST = "noto"


@dataclass(frozen=True)
class ImagePack:
    """Images, one per row; a category has at most one image by each artist.

    Attributes:
        names: category that each image shows ("red apple", "France").
        kinds: "animal", "food", "flag", "object" or "plant".
        artists: who drew it.
        files: PNG files with an alpha channel.

    Example:
        >>> pack = tv.ImagePack.load()
        >>> len(pack) == len(pack.names)
        True
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    artists: tuple[str, ...]
    files: tuple[bytes, ...]

    @classmethod
    def load(cls) -> "ImagePack":
        """Load the packaged images; NOTICE lists the artists and their licences."""
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(_IMAGES.read_bytes())).to_pydict()
        # The packaged file calls the images "picture".
        files = table["image" if "image" in table else "picture"]
        return cls(*map(tuple, (table["name"], table["kind"], table["artist"], files)))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        artists = len(self.artist_names)
        return f"ImagePack({len(self)}: {len(set(self.names))} categories by {artists} artists)"

    @property
    def artist_names(self) -> list[str]:
        """The artists, each once, sorted."""
        return sorted(set(self.artists))

    def read_pixels(self, row: int) -> np.ndarray:
        """Decode one image to `uint8 [height, width, 4]` with straight alpha."""
        from PIL import Image

        with Image.open(io.BytesIO(self.files[row])) as opened:
            return np.asarray(opened.convert("RGBA"))

    def subset(self, rows: Iterable[int]) -> "ImagePack":
        """Select rows, in this order."""
        rows = list(rows)
        columns = (self.names, self.kinds, self.artists, self.files)
        return ImagePack(*(tuple(column[i] for i in rows) for column in columns))

    def where(
        self,
        *,
        artist: str | None = None,
        kind: str | None = None,
        names: Sequence[str] | None = None,
    ) -> "ImagePack":
        """Select the images of an artist, of a kind, or of categories.

        Raises:
            TvlensError: no such artist, kind or category.
        """
        for field, values, valid in (
            ("artist", [artist], self.artists),
            ("kind of image", [kind], self.kinds),
            ("image", names or (), self.names),
        ):
            for value in values:
                if value is not None and value not in valid:
                    raise unknown(field, value, sorted(set(valid)))
        selected = None if names is None else set(names)
        return self.subset(
            i
            for i in range(len(self))
            if artist in (None, self.artists[i])
            and kind in (None, self.kinds[i])
            and (selected is None or self.names[i] in selected)
        )

    def by_name(self) -> dict[str, bytes]:
        """Map each category to its image, as `Task(images=...)` takes it.

        Raises:
            TvlensError: two images of one category; choose an artist first.
        """
        files = dict(zip(self.names, self.files, strict=True))
        if len(files) < len(self):
            raise TvlensError(
                "several artists drew the same categories: choose one, "
                f"such as .where(artist={self.artists[0]!r})"
            )
        return files

    def match(self, words: Iterable[str]) -> dict[str, bytes]:
        """Map each word that names a category, or is a synonym of one, to its image.

        The result is what `Task(images=...)` takes; "cherry" has the image of "cherries".

        Raises:
            TvlensError: two images of one category; choose an artist first.
        """
        files, synonyms = self.by_name(), json.loads(_SYNONYMS.read_text())
        names = {word: word if word in files else synonyms.get(word) for word in words}
        return {word: files[name] for word, name in names.items() if name in files}

    def sample_names(self, *, share: float = 0.1, seed: int = 0) -> frozenset[str]:
        """Draw a share of the categories of every kind, to be held out of training."""
        rng = np.random.default_rng(seed)
        by_kind: dict[str, list[str]] = {}
        for name, kind in sorted(set(zip(self.names, self.kinds, strict=True))):
            by_kind.setdefault(kind, []).append(name)
        return frozenset(
            name
            for _, names in sorted(by_kind.items())
            for name in rng.choice(names, round(share * len(names)), replace=False).tolist()
        )
