"""How every artist draws a thing: drawings as SVG out of icon sets, and Noto's out of its font."""

import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..labelled.images import _ligatures
from ..labelled.packages import open_package
from .things import Thing


@dataclass(frozen=True)
class Artist:
    """One hand.

    Attributes:
        package: where the drawings are; an icon set, except for Noto.
        names: what the set may call a thing, in order of trust.
    """

    package: str
    names: Callable[[Thing], list[str]]
    licence: str
    owner: str


def _emoji(thing: Thing) -> list[str]:
    flag = thing.slug.removeprefix("flag-")
    names = [thing.slug, f"flag-for-{flag}", f"flag-{flag}"] if thing.country else [thing.slug]
    if thing.kind == "animal":
        names.append(f"{thing.slug}-face")
    return names


def _country(form: str) -> Callable[[Thing], list[str]]:
    return lambda thing: [form.format(thing.country)] if thing.country else []


ARTISTS = {
    "twemoji": Artist("@iconify-json/twemoji", _emoji, "CC-BY-4.0", "Twitter, Inc and others"),
    "fluent": Artist("@iconify-json/fluent-emoji", _emoji, "MIT", "Microsoft Corporation"),
    "fluent-flat": Artist(
        "@iconify-json/fluent-emoji-flat", _emoji, "MIT", "Microsoft Corporation"
    ),
    "emojione": Artist("@iconify-json/emojione", _emoji, "CC-BY-4.0", "Emoji One (EmojiTwo)"),
    "fxemoji": Artist(
        "@iconify-json/fxemoji",
        lambda thing: [thing.slug.replace("-", "")],
        "Apache-2.0",
        "Mozilla",
    ),
    "circle-flags": Artist("@iconify-json/circle-flags", _country("{}"), "MIT", "HatScripts"),
    "flag-icons": Artist("@iconify-json/flag", _country("{}-4x3"), "MIT", "Panayiotis Lipiridis"),
    "flagpack": Artist("@iconify-json/flagpack", _country("{}"), "MIT", "Yummygum"),
    "coreui": Artist("@iconify-json/cif", _country("{}"), "CC0-1.0", "creativeLabs"),
    "noto": Artist("fonts-noto-color-emoji", _emoji, "Apache-2.0", "Google Inc."),
}


def drawing(artist: str, thing: Thing, folder: Path) -> bytes | None:
    """The drawing as PNG; None where the artist did not draw it."""
    if artist == "noto":
        return _noto(folder)(thing.code)
    return _from_icons(ARTISTS[artist], thing, folder)


def _from_icons(artist: Artist, thing: Thing, folder: Path) -> bytes | None:
    icons, by_code = _icons(artist.package, folder)
    for name in [by_code.get(thing.code), *artist.names(thing)]:
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if name in icons["icons"]:
            return _png(icons["icons"][name], icons)
    return None


@functools.cache
def _icons(package: str, folder: Path) -> tuple[dict, dict]:
    read_member = open_package(package, folder)
    try:
        by_code = json.loads(read_member("package/chars.json"))
    except KeyError:
        by_code = {}
    return json.loads(read_member("package/icons.json")), by_code


def _png(icon: dict, icons: dict) -> bytes:
    import vl_convert

    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
    )
    return vl_convert.svg_to_png(svg, scale=128 / max(width, height))


@functools.cache
def _noto(folder: Path) -> Callable[[str], bytes | None]:
    from fontTools.ttLib import TTFont

    read_member = open_package("fonts-noto-color-emoji", folder)
    font = TTFont(io.BytesIO(read_member("./usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")))
    glyphs, ligatures, strike = font.getBestCmap(), _ligatures(font), font["CBDT"].strikeData[0]

    def draw(code: str) -> bytes | None:
        names = [glyphs.get(int(part, 16)) for part in code.split("-")]
        name = names[0] if len(names) == 1 else ligatures.get(tuple(names))
        return strike[name].imageData if name in strike else None

    return draw
