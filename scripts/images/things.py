"""The things that are drawn: a name, a kind, and the code points that all artists share."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..labelled.packages import open_package

# Subgroups of Unicode's emoji -> what kind of thing they show.
_KINDS = {
    "animal": (*range(34, 40),),
    "plant": (40, 41),
    "food": (*range(42, 48),),
    "flag": (98,),
    "object": (48, *range(54, 57), 58, *range(61, 66), *range(68, 83)),
}
_KIND_OF = {subgroup: kind for kind, group in _KINDS.items() for subgroup in group}


@dataclass(frozen=True)
class Thing:
    """What a picture shows.

    Attributes:
        code: code points, without variation selectors ("1f34e").
        slug: how icon sets spell the label ("red-apple").
        country: two letters, of flags.
    """

    name: str
    kind: str
    code: str
    slug: str
    country: str = ""


def things(folder: Path) -> list[Thing]:
    """Every animal, plant, food, country's flag and object, each name once."""
    read_member = open_package("emojibase-data", folder)
    things_by_name: dict[str, Thing] = {}
    for emoji in json.loads(read_member("package/en/data.json")):
        kind = _KIND_OF.get(emoji.get("subgroup"))
        code = emoji["hexcode"].lower().replace("-fe0f", "")
        if kind and "200d" not in code:
            thing = _thing(emoji["label"], kind, code)
            # "dog" comes after "dog face"; the whole animal is the better picture.
            if thing.name not in things_by_name or "face" not in emoji["label"]:
                things_by_name[thing.name] = thing
    return sorted(things_by_name.values(), key=lambda thing: (thing.kind, thing.name))


def _thing(label: str, kind: str, code: str) -> Thing:
    name = label.split(": ")[-1].replace("’", "'")
    if kind == "animal":
        name = name.removesuffix(" face")
    if kind == "flag":
        letters = (chr(int(part, 16) - 0x1F1E6 + ord("a")) for part in code.split("-"))
        return Thing(name.replace(" & ", " and "), kind, code, _slug(label), "".join(letters))
    return Thing(name, kind, code, _slug(label))


def _slug(label: str) -> str:
    characters = "".join(c if c.isalnum() else "-" for c in label.lower().replace("’", ""))
    return "-".join(part for part in characters.split("-") if part)
