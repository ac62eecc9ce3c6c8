"""`python -m scripts.images FOLDER`: fetch the packages into FOLDER and write the Parquet file.

Needs pillow and fonttools beside what tvlens needs, and npm and a Debian apt to fetch with; a
package that already lies in FOLDER is not fetched again. The same packages give the same bytes.
"""

import io
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from .artists import ARTISTS, drawing
from .things import things

TARGET = Path(__file__).parents[2] / "tvlens" / "vlm"
SIDE, COLOURS = 64, 48


def main(folder: Path) -> None:
    """Write every thing that Noto and two more artists drew, by artist."""
    rows = []
    for thing in tqdm(things(folder), desc="drawing"):
        images = {artist: drawing(artist, thing, folder) for artist in ARTISTS}
        images = {artist: png for artist, png in images.items() if png is not None}
        if "noto" in images and len(images) >= 3:
            rows += [(thing.name, thing.kind, a, small(png)) for a, png in images.items()]
    columns = dict(zip(("name", "kind", "artist", "image"), zip(*rows, strict=True), strict=True))
    TARGET.mkdir(exist_ok=True)
    path = TARGET / "images.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19)
    print(f"{len(rows)} images, {path.stat().st_size / 1e6:.1f} MB")
    print(Counter(row[2] for row in rows), Counter({row[0]: row[1] for row in rows}.values()))


def small(png: bytes) -> bytes:
    """A drawing in the middle of a square that shows through, of few colours, as PNG."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    size = max(image.size)
    square = Image.new("RGBA", (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    square = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = square.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    target = io.BytesIO()
    square.save(target, "PNG", optimize=True)
    return target.getvalue()


main(Path(sys.argv[1]))
