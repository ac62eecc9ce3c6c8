"""Labelled texts. Each function gives rows (text, label, group) from the packages' own files.

Rows of one group (a question and its answer, forms of one word) never part in a split.
"""

import ast
import colorsys
import csv
import io
import json
import re
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator
from pathlib import Path

from .packages import open_package

Rows = Iterator[tuple[str, str, str]]

# The lexicographer files of WordNet 3.0, by number.
_NOUN_WORDS = (
    "act animal artifact attribute body cognition communication event feeling food group location "
    "motive object person phenomenon plant possession process quantity relation shape state "
    "substance time"
)
_VERB_WORDS = (
    "body change cognition communication competition consumption contact creation emotion motion "
    "perception possession social stative weather"
)
_NOUNS = dict(enumerate(_NOUN_WORDS.split(), start=4))
_VERBS = dict(enumerate(_VERB_WORDS.split(), start=29))
_LANGUAGES = "cs da de en es et fi fr hr hu id is it lt lv nl pl pt ro sv tr vi"


def _synsets(folder: Path, part: str) -> Iterator[tuple[int, str]]:
    """Lexicographer file and definition of every synset."""
    data = open_package("wordnet-base", folder)(f"./usr/share/wordnet/data.{part}").decode(
        "latin-1"
    )
    for line in data.splitlines():
        if not line.startswith("  "):
            fields, _, gloss = line.partition(" | ")
            definition = re.split(r';\s*"', gloss)[0].strip(" ;")  # without the examples
            yield int(fields.split()[1]), definition


def wordnet_nouns(folder: Path) -> Rows:
    for file, gloss in _synsets(folder, "noun"):
        if file in _NOUNS:
            yield gloss, _NOUNS[file], gloss


def wordnet_verbs(folder: Path) -> Rows:
    for file, gloss in _synsets(folder, "verb"):
        yield gloss, _VERBS[file], gloss


def wordnet_parts(folder: Path) -> Rows:
    names = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
    for part, label in names.items():
        for _, gloss in _synsets(folder, part):
            yield gloss, label, gloss


def emoji_words(folder: Path) -> Rows:
    read_member = open_package("emojibase-data", folder)
    groups = json.loads(read_member("package/meta/groups.json"))["groups"]
    for emoji in json.loads(read_member("package/en/data.json")):
        label = groups.get(str(emoji.get("group")), "component")
        if label not in ("component", "flags"):  # flags are all called "flag"
            words = ", ".join([emoji["label"], *emoji.get("tags", [])])
            name = re.sub(r"^(man|woman|person)\b:? ?", "", emoji["label"])
            yield words, label, name


def word_sentiment(folder: Path) -> Rows:
    read_member = open_package("vaderSentiment", folder)
    for line in read_member("vaderSentiment/vader_lexicon.txt").decode().splitlines():
        word, mean, *_ = line.split("\t")
        if re.fullmatch("[a-z]{3,}", word):
            strength = "strongly " if abs(float(mean)) >= 2 else ""
            yield word, strength + ("positive" if float(mean) > 0 else "negative"), word[:5]


def chat_topic(folder: Path) -> Rows:
    read_member = open_package("chatterbot-corpus", folder)
    topics = "ai coding emotion literature money psychology science sports tech_support trivia"
    for topic in topics.split():
        conversations = read_member(f"chatterbot_corpus/data/english/{topic}.yml").decode()
        # Each conversation begins with "- - " and is wrapped at a deeper indent.
        for question in re.findall(r"^- - (.*(?:\n {4}.*)*)", conversations, re.MULTILINE):
            text = " ".join(question.split()).strip("'\"").capitalize()
            if len(text) >= 8:
                yield text, topic.replace("_", " "), text.lower()


def unicode_block(folder: Path) -> Rows:
    """Names of characters by the block they stand in."""
    read_member = open_package("unicode-data", folder)
    blocks = {
        "arrows": (0x2190, 0x21FF),
        "mathematical operators": (0x2200, 0x22FF),
        "miscellaneous technical": (0x2300, 0x23FF),
        "enclosed alphanumerics": (0x2460, 0x24FF),
        "box drawing": (0x2500, 0x257F),
        "geometric shapes": (0x25A0, 0x25FF),
        "miscellaneous symbols": (0x2600, 0x26FF),
        "dingbats": (0x2700, 0x27BF),
        "phonetic extensions": (0x1D00, 0x1D7F),
        "musical symbols": (0x1D100, 0x1D1FF),
        "mahjong, dominoes and cards": (0x1F000, 0x1F0FF),
        "pictographs": (0x1F300, 0x1F5FF),
        "emoticons": (0x1F600, 0x1F64F),
        "transport and map symbols": (0x1F680, 0x1F6FF),
        "alchemical symbols": (0x1F700, 0x1F77F),
        "supplemental pictographs": (0x1F900, 0x1F9FF),
    }
    for line in read_member("./usr/share/unicode/UnicodeData.txt").decode().splitlines():
        code, name, *_ = line.split(";")
        words = name.lower().replace("alchemical symbol for ", "").replace("musical symbol ", "")
        for label, (first, last) in blocks.items():
            if first <= int(code, 16) <= last:
                yield words, label, words


def builtin_language(folder: Path) -> Rows:
    """Which language a built-in name belongs to, from the word lists of Pygments."""
    read_member = open_package("Pygments", folder)
    lists = {
        "Asymptote": ("asy", "ASYFUNCNAME"),
        "Common Lisp": ("cl", "BUILTIN_FUNCTIONS"),
        "Cocoa": ("cocoa", "COCOA_INTERFACES"),
        "CSS": ("css", "_css_properties"),
        "GoogleSQL": ("googlesql", "functionnames"),
        "LilyPond": ("lilypond", "music_functions"),
        "MQL": ("mql", "constants"),
        "MySQL": ("mysql", "MYSQL_FUNCTIONS"),
        "OpenEdge": ("openedge", "OPENEDGEKEYWORDS"),
        "Qlik": ("qlik", "SCRIPT_FUNCTIONS"),
        "Scheme": ("scheme", "scheme_builtins"),
        "Scilab": ("scilab", "functions_kw"),
        "SourceMod": ("sourcemod", "FUNCTIONS"),
        "Stan": ("stan", "FUNCTIONS"),
        "Stata": ("stata", "builtins_base"),
    }
    for label, (file, variable) in lists.items():
        for word in sorted(_literal(read_member(f"pygments/lexers/_{file}_builtins.py"), variable)):
            if len(word) >= 3:
                yield word, label, word.lower()


def color_name(folder: Path) -> Rows:
    """The basic colour that a poetic name of a colour stands for, by hue, lightness, saturation."""
    data = open_package("color-name-list", folder)("package/dist/colornames.bestof.csv").decode()
    hues = [(15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (200, "cyan")]
    hues += [(255, "blue"), (290, "purple"), (345, "pink"), (361, "red")]
    for row in csv.DictReader(io.StringIO(data)):
        red, green, blue = (int(row["hex"][i : i + 2], 16) / 255 for i in (1, 3, 5))
        hue, light, strong = colorsys.rgb_to_hls(red, green, blue)
        if light < 0.12:
            label = "black"
        elif light > 0.92:
            label = "white"
        elif strong < 0.12:
            label = "grey"
        else:
            label = next(name for end, name in hues if hue * 360 < end)
            label = "brown" if label in ("red", "orange") and light < 0.35 else label
        yield row["name"], label, row["name"].lower()


def name_language(folder: Path) -> Rows:
    """Languages and territories, as they are called in languages with Latin letters."""
    read_member = open_package("unicode-cldr-core", folder)
    english = xml.fromstring(read_member("./usr/share/unicode/cldr/common/main/en.xml"))
    titles = {e.get("type"): e.text for e in english.iter("language")}
    for code in _LANGUAGES.split():
        root = xml.fromstring(read_member(f"./usr/share/unicode/cldr/common/main/{code}.xml"))
        for element in [*root.iter("language"), *root.iter("territory")]:
            if element.get("alt") is None and element.text and len(element.text) > 3:
                yield element.text, titles[code], element.text.lower()


def surname_country(folder: Path) -> Rows:
    """Family names by country, from the lists of Faker that are in Latin letters."""
    read_member = open_package("Faker", folder)
    countries = {
        "Czechia": "cs_CZ", "Denmark": "da_DK", "Germany": "de_DE", "Spain": "es_ES",
        "Finland": "fi_FI", "France": "fr_FR", "Hungary": "hu_HU", "Indonesia": "id_ID",
        "Italy": "it_IT", "Netherlands": "nl_NL", "Poland": "pl_PL", "Portugal": "pt_PT",
        "Romania": "ro_RO", "Sweden": "sv_SE", "Turkey": "tr_TR", "Croatia": "hr_HR",
        "Slovenia": "sl_SI", "Lithuania": "lt_LT",
    }  # fmt: skip
    for label, code in countries.items():
        source = read_member(f"faker/providers/person/{code}/__init__.py")
        for name in sorted(_names(source)):
            yield name, label, name.lower()


def city_continent(folder: Path) -> Rows:
    """Cities that name a time zone, by the first part of the zone's name."""
    zones = open_package("tzdata", folder)("tzdata/zones").decode().split()
    for zone in zones:
        continent, _, city = zone.partition("/")
        if continent in ("Africa", "America", "Asia", "Australia", "Europe", "Pacific"):
            name = city.rsplit("/", 1)[-1].replace("_", " ")
            label = "Oceania" if continent in ("Australia", "Pacific") else continent
            yield name, label, name.lower()


def _literal(source: bytes, variable: str) -> list[str]:
    """The words of a literal in a Python file, which is not run."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == variable:
            return [word for word in ast.literal_eval(statement.value) if isinstance(word, str)]
    raise SystemExit(f"no {variable} there")


def _names(source: bytes) -> set[str]:
    """The strings of every assignment to `last_names...` inside the provider's class."""
    names: set[str] = set()
    assigned = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assign))
    for node in assigned:
        if getattr(node.targets[0], "id", "").startswith("last_name"):
            strings = (n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant))
            names |= {s for s in strings if isinstance(s, str) and "{{" not in s}
    return names


# Name -> (function, most rows of one class, description, source, licence).
TEXTS: dict[str, tuple[Callable[[Path], Rows], int, str, str, str]] = {
    "wordnet-nouns": (
        wordnet_nouns, 120, "what kind of thing a definition is of", "WordNet 3.0", "WordNet",
    ),
    "wordnet-verbs": (
        wordnet_verbs, 150, "what kind of doing a definition is of", "WordNet 3.0", "WordNet",
    ),
    "wordnet-parts": (
        wordnet_parts, 500, "the part of speech that a definition is of", "WordNet 3.0", "WordNet",
    ),
    "emoji-words": (
        emoji_words, 250, "the group of an emoji from its name and tags", "emojibase-data", "MIT",
    ),
    "word-sentiment": (
        word_sentiment, 500, "how people feel about a word", "VADER lexicon", "MIT",
    ),
    "chat-topic": (
        chat_topic, 150, "the topic of an opening line", "ChatterBot corpus", "BSD-3-Clause",
    ),
    "unicode-block": (
        unicode_block, 120, "the block of a symbol from its name", "Unicode 15.0", "Unicode-3.0",
    ),
    "builtin-language": (
        builtin_language, 150, "the language of a built-in name", "Pygments", "BSD-2-Clause",
    ),
    "color-name": (
        color_name, 150, "the basic colour behind a poetic name", "color-name-list", "MIT",
    ),
    "name-language": (
        name_language, 120, "the language that a name of a country or language is in",
        "Unicode CLDR 41", "Unicode-3.0",
    ),
    "surname-country": (
        surname_country, 150, "where a family name is at home", "Faker", "MIT",
    ),
    "city-continent": (
        city_continent, 150, "the continent of a city", "IANA time zones", "public domain",
    ),
}  # fmt: skip
