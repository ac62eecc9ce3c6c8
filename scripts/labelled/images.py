"""Labelled images, as uint8 [side side 3]. Rows are (pixels, label, group)."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .packages import open_package

Rows = Iterator[tuple[np.ndarray, str, str]]

SIDE = 32


def digits(folder: Path) -> Rows:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for i, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        grey = (image * (255 / 16)).astype(np.uint8)
        yield np.repeat(grey[..., None], 3, axis=-1), str(label), str(i)


def emoji_noto(folder: Path) -> Rows:
    from fontTools.ttLib import TTFont

    read_member = open_package("fonts-noto-color-emoji", folder)
    font = TTFont(io.BytesIO(read_member("./usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")))
    glyphs, ligatures = font.getBestCmap(), _ligatures(font)
    strike = font["CBDT"].strikeData[0]
    for code, label in _emoji(folder):
        names = [glyphs.get(int(c, 16)) for c in code.split("-") if c != "FE0F"]
        name = names[0] if len(names) == 1 else ligatures.get(tuple(names))
        if name in strike:
            yield _small(strike[name].imageData), label, code


def emoji_twitter(folder: Path) -> Rows:
    read_member = open_package("emoji-datasource-twitter", folder)
    files = {e["unified"]: e["image"] for e in json.loads(read_member("package/emoji.json"))}
    without = {key.replace("-FE0F", ""): value for key, value in files.items()}
    for code, label in _emoji(folder):
        file = without.get(code.replace("-FE0F", ""))
        if file is not None:
            yield _small(read_member(f"package/img/twitter/64/{file}")), label, code


def _emoji(folder: Path) -> list[tuple[str, str]]:
    """Code and group of every emoji but those that vary another one (skin, sex, hair)."""
    read_member = open_package("emojibase-data", folder)
    groups = json.loads(read_member("package/meta/groups.json"))["groups"]
    emoji_labels = []
    for emoji in json.loads(read_member("package/en/data.json")):
        label = groups.get(str(emoji.get("group")), "component")
        if label != "component" and "200D" not in emoji["hexcode"]:
            emoji_labels.append((emoji["hexcode"], label))
    return emoji_labels


def _ligatures(font) -> dict[tuple[str, ...], str]:
    ligatures = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, ends in getattr(table, "ligatures", {}).items():
                for ligature in ends:
                    ligatures[(first, *ligature.Component)] = ligature.LigGlyph
    return ligatures


def _small(png: bytes) -> np.ndarray:
    """An image on white, centred in a square, in steps of eight levels, which pack well."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGBA")
    size = max(image.size)
    square = Image.new("RGBA", (size, size), "white")
    square.alpha_composite(image, ((size - image.width) // 2, (size - image.height) // 2))
    pixels = np.asarray(square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return (pixels >> 3 << 3) | (pixels >> 5)


IMAGES: dict[str, tuple[Callable[[Path], Rows], str, str, str]] = {
    "digits": (digits, "handwritten digits", "scikit-learn (UCI optical digits)", "CC-BY-4.0"),
    "emoji-noto": (
        emoji_noto, "the group of an emoji, as Noto draws it", "Noto Emoji", "Apache-2.0",
    ),
    "emoji-twitter": (
        emoji_twitter, "the group of an emoji, as Twemoji draws it", "Twemoji", "CC-BY-4.0",
    ),
}  # fmt: skip
