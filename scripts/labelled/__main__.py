"""`python -m scripts.labelled FOLDER`: fetch the packages into FOLDER and write the Parquet file.

Needs pillow and fonttools beside what tvlens needs, and npm and a Debian apt to fetch with; a
package that already lies in FOLDER is not fetched again. The same packages give the same bytes.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .images import IMAGES
from .packages import LICENCES, open_package
from .texts import TEXTS

TARGET = Path(__file__).parents[2] / "tvlens" / "labelled"
LEAST = 20
SEED = 0


def main(folder: Path) -> None:
    """Write every set, and what each is, where it comes from and under which licence."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, metadata = [], {}
    for name, (make, most, description, source, licence) in TEXTS.items():
        selected = cap_classes(unambiguous(make(folder)), most)
        rows += [(name, text, None, 0, label, group) for text, label, group in selected]
        metadata[name] = summary("text", selected, description, source, licence)
    images = {name: unique_images(make(folder)) for name, (make, *_) in IMAGES.items()}
    # Both artists drew what is kept, so that one set is the shift test of the other.
    both = {r[2] for r in images["emoji-noto"]} & {r[2] for r in images["emoji-twitter"]}
    for name, (_, description, source, licence) in IMAGES.items():
        selected = [r for r in images[name] if not name.startswith("emoji") or r[2] in both]
        rows += [(name, None, p.tobytes(), len(p), label, group) for p, label, group in selected]
        metadata[name] = summary("image", selected, description, source, licence)
    table = pa.table(
        dict(zip(SCHEMA.names, map(list, zip(*rows, strict=True)), strict=True)), schema=SCHEMA
    )
    pq.write_table(table, TARGET / "labelled.parquet", compression="zstd", compression_level=19)
    (TARGET / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n")
    (TARGET / "LICENCES.txt").write_text(licences(folder))
    for name, facts in metadata.items():
        print(f"{name:18}{facts['rows']:6} rows {len(facts['classes']):3} classes")


SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("text", pa.string()),
        ("image", pa.binary()),
        ("side", pa.int32()),
        ("label", pa.string()),
        ("group", pa.string()),
    ]
)


def unambiguous(rows) -> list[tuple[str, str, str]]:
    """Each text once; those that stand there with two labels not at all."""
    labels, first = defaultdict(set), {}
    for text, label, group in rows:
        text = " ".join(text.split())
        labels[text.lower()].add(label)
        first.setdefault(text.lower(), (text, label, group))
    return [row for key, row in sorted(first.items()) if len(labels[key]) == 1 and key]


def cap_classes(rows: list, most: int) -> list:
    """At most so many rows of a class, drawn by a seed; classes of fewer than 20 are left out."""
    by_label = defaultdict(list)
    for row in rows:
        by_label[row[1]].append(row)
    selected = []
    for label in sorted(by_label):
        rows_of_label = by_label[label]
        if len(rows_of_label) >= LEAST:
            order = np.random.default_rng(SEED).permutation(len(rows_of_label))[:most]
            selected += [rows_of_label[i] for i in sorted(order)]
    return selected


def unique_images(rows) -> list:
    """Each image once, and sorted by its group."""
    images = set()
    unique_rows = []
    for row in sorted(rows, key=lambda row: row[2]):
        if row[0].tobytes() not in images:
            images.add(row[0].tobytes())
            unique_rows.append(row)
    return unique_rows


def licences(folder: Path) -> str:
    """The licences that ask to go with copies, as the packages carry them."""
    texts = []
    for name, member in LICENCES.items():
        text = open_package(name, folder)(member).decode("utf-8", "replace")
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        texts.append(f"{'=' * 80}\n{name}\n{'=' * 80}\n\n{lines}\n")
    return "\n".join(texts)


def summary(kind: str, rows: list, description: str, source: str, licence: str) -> dict:
    """What a reader of the file should know of a set."""
    counts = Counter(row[1] for row in rows)
    return {
        "kind": kind,
        "rows": len(rows),
        "classes": sorted(counts),
        "description": description,
        "source": source,
        "licence": licence,
    }


main(Path(sys.argv[1]))
