"""Small commands that can be resumed, each with how its results are compared."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch

import tvlens as tv
from tvlens.activations import Activations
from tvlens.training import Shape, load_run, train

from .children import tvlens

# What may differ between two runs of the same: when and how long.
_VOLATILE = ("seconds", "converted", "key", "checksum")


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder, and what its result there is."""

    name: str
    run: Callable[[Path], Callable[[], object]]
    result: Callable[[Path], Any]


def commands(work: Path) -> list[Command]:
    """Every resumable command on tiny models, which are made in a folder."""
    model = work / "model"
    torch.manual_seed(3)
    tiny._hugging_face("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    rows = "\n".join(f"{c}at,{c}ats" for c in "abcdefghijklmnopqrst")
    task, other = work / "plural.csv", work / "double.csv"
    task.write_text(f"input,output\n{rows}\n")
    other.write_text(f"input,output\n{rows.replace('ats', 'at at')}\n")
    texts = ["--clean", "Q: cat A: cats", "--corrupted", "Q: dog A: dogs", "--right", "s"]
    tasks = ["-t", task, "-t", other]

    def cli(*arguments: object) -> Callable[[Path], Callable[[], object]]:
        return lambda out: tvlens(*arguments, "-o", out)

    vectors = cli("vectors", "-m", model, *tasks, "--shots", 2, "--contexts", 2)
    # Texts that the catalogue has would be longer than the tiny model's context.
    mixtures = cli("mixtures", "-m", model, "-t", f"{task},{other}", "--shots", 2, "--count", 12)
    patch = cli("patch", "-m", model, *texts, "--site", "mlp_out")
    return [
        Command("collect(file=)", _collect, _activations),
        Command("train", _train, _steps),
        Command("tvlens vectors", vectors, _report),
        Command("tvlens patch", patch, _report),
        Command("tvlens mixtures", mixtures, _report),
        Command("tvlens latent", cli("latent", "--preset", _latent(), "--jobs", 1), _report),
        _matrices(work),
    ]


def _collect(out: Path) -> Callable[[], object]:
    model = tiny.model("gpt2")
    prompts = [[3 + (i * j) % 300 for j in range(40)] for i in range(1, 400)]
    file = out / "states.safetensors"
    return lambda: tv.collect(model, prompts, ["resid_post", "z"], file=file, progress=False)


def _activations(out: Path) -> Any:
    found = Activations.load(out / "states.safetensors")
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + found[name].numpy().tobytes())
    return digest.hexdigest()


def _sample(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 8, (16, 12), generator=generator)


def _train(out: Path) -> Callable[[], object]:
    shape = Shape(context=12, vocab=8, layers=2, d_model=32, heads=2)
    options = {"steps": 60, "every": 10, "checkpoints": list(range(0, 61, 5)), "progress": False}
    return lambda: train(shape, _sample, folder=out / "run", **options)


def _steps(out: Path) -> Any:
    run = load_run(out / "run")
    digest = hashlib.sha256()
    for step in run.steps:
        for name, value in sorted(run.weights(step).items()):
            digest.update(name.encode() + value.numpy().tobytes())
    return _plain(run.metrics), run.steps, digest.hexdigest()


def _report(out: Path) -> Any:
    assert (out / "index.html").stat().st_size > 1000
    return _plain(json.loads((out / "report.json").read_text()))


def _latent() -> str:
    """The name of a preset of one tiny cell."""
    from tvlens.studies.latent import study
    from tvlens.studies.latent.plan import Plan

    checks = {
        "behaviour": {"sequences": 6},
        "representation": {"per_cell": 2, "resamples": 5, "null": 2},
        "injection": {"sequences": 6},
        "removal": {"sequences": 6, "null": 2},
        "learning": {"sequences": 6, "steps": 2, "null": 2, "rank": 1},
        "explained": {"sequences": 40, "null": 2},
        "newcomers": {"tasks": 4, "sequences": 4, "null": 5},
        "over_steps": {"sequences": 6, "tasks": 3, "per_task": 3, "per_cell": 2},
    }
    sizes = (10, 2, 32, 30, 8, 1e-3, ("none", 2), 0.3, 0.003)
    plan = Plan("dice", *sizes, checks=checks, options={"faces": 4})
    study.PRESETS["tiny"] = (plan,)
    return "tiny"


def _matrices(work: Path) -> Command:
    """The study of task matrices on planted texts and a tiny BERT."""
    import transformers as hf

    from tvlens.studies import matrices as study

    base = work / "bert"
    torch.manual_seed(0)
    hf.BertModel(hf.BertConfig(**tiny._TEXT)).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    study.PRESETS["tiny"] = study.Preset(None, 60, 6, (0,))
    lists = "cat dog bus red green house", "one two three four five six"
    words = [line.split() for line in lists]
    texts = [f"{words[i % 2][i % 6]} {words[i % 2][i % 5]} {i}" for i in range(80)]
    sets = [
        tv.Labelled(name, texts, [(i + k) % 2 for i in range(80)], ["a", "b"])
        for k, name in enumerate(("first", "second"))
    ]

    def run(out: Path) -> Callable[[], object]:
        options = {"data": sets, "preset": "tiny", "progress": False}
        return lambda: study.run(str(base), **options, folder=out)

    return Command("matrices", run, _report)


def _plain(value: Any) -> Any:
    """Nested data without what may differ between two runs."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in _VOLATILE}
    return [_plain(v) for v in value] if isinstance(value, list) else value
