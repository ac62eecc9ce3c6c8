"""Damaged files of every format: they load with their content, or raise a one-line error."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import every_result
import tiny
import torch

import tvlens as tv
from tvlens import TvlensError
from tvlens.activations import Activations
from tvlens.studies.claims import read_claims
from tvlens.training import TransformerConfig, checkpoint, load_run, train

Trial = tuple[str, str | None]


@dataclass(frozen=True)
class Format:
    """A file format: a valid file, its loader, and the content that must not change silently.

    Attributes:
        content: gives what a loaded value holds, as comparable data; None where the file is the
            user's own text or another library's, whose content nothing vouches for.
    """

    name: str
    path: Path
    load: Callable[[Path], Any]
    content: Callable[[Any], Any] | None


def damage(work: Path, count: int) -> Iterator[Trial]:
    """Damage each format's file `count` times: a bit, a cut, a block, or another file's bytes."""
    rng = random.Random("damage")
    formats = list(_make_formats(work))
    for file_format in formats:
        original = file_format.path.read_bytes()
        expected = (
            file_format.content(file_format.load(file_format.path)) if file_format.content else None
        )
        for i in range(count):
            file_format.path.write_bytes(_damage_bytes(original, i, rng, formats))
            yield f"damaged file: {file_format.name}", _find_fault(file_format, expected)
        file_format.path.write_bytes(original)


def _find_fault(file_format: Format, expected: Any) -> str | None:
    try:
        loaded = file_format.load(file_format.path)
    except TvlensError as error:
        lines = str(error).splitlines()
        return None if len(lines) == 1 else f"{len(lines)} lines: {error}"
    except BaseException as error:
        return f"raw {type(error).__name__}: {error}"[:200]
    if file_format.content and file_format.content(loaded) != expected:
        return "silently another content"
    return None


def _damage_bytes(original: bytes, i: int, rng: random.Random, formats: list[Format]) -> bytes:
    content = bytearray(original)
    position = rng.randrange(len(content))
    kind = i % 8
    if kind < 4:  # one bit, half of them in the header
        position = rng.randrange(min(len(content), 400)) if kind < 2 else position
        content[position] ^= 1 << rng.randrange(8)
    elif kind == 4:
        del content[position:]
    elif kind == 5:
        content[position : position + 64] = rng.randbytes(64)
    elif kind == 6:
        content += rng.randbytes(rng.choice((1, 100)))
    else:
        other = rng.choice(formats).path.read_bytes()
        content = bytearray(other if other != original else b"")
    return bytes(content)


def _make_formats(work: Path) -> Iterator[Format]:
    folder = work / "formats"
    folder.mkdir()
    types = set()
    for name, result in every_result.make_every_result(folder).items():
        kind = type(result)
        if not hasattr(kind, "load") or kind in types or hasattr(result, "folder"):
            continue  # what lives in a folder is loaded from there
        types.add(kind)
        path = folder / f"{kind.__name__}.saved"
        result.save(path)
        yield Format(name, path, kind.load, _content_by_saving(folder / "again"))
    path = folder / "states.safetensors"
    tv.collect(tiny.model("gpt2"), tiny.ragged("text"), file=path, progress=False)
    yield Format("Activations", path, Activations.load, _list_tensors)
    yield _checkpoint(folder)
    yield from _texts(folder)
    yield from _reports(folder)
    yield from _model_files(folder)


def _content_by_saving(path: Path) -> Callable[[Any], bytes]:
    """Return a function that represents a result by the bytes of its file."""

    def content(result: Any) -> bytes:
        result.save(path)
        return path.read_bytes()

    return content


def _list_tensors(activations: Activations) -> Any:
    tensors = {name: values.tolist() for name, values in activations.items()}
    return tensors, activations.lengths.tolist()


def _checkpoint(folder: Path) -> Format:
    model = torch.nn.Linear(4, 4)
    checkpoint.save(folder, 1, model, torch.optim.AdamW(model.parameters()))
    path = checkpoint.checkpoint_path(folder, 1)

    def content(weights: dict) -> Any:
        return {name: value.tolist() for name, value in weights.items()}

    return Format("checkpoint", path, lambda _: checkpoint.weights(folder, 1), content)


def _texts(folder: Path) -> Iterator[Format]:
    task = tv.Task("plural", [(f"{c}at", f"{c}ats") for c in "abcdefgh"])
    path = folder / "task.json"
    task.to_json(path)
    yield Format("task, JSON", path, lambda p: tv.Task.load(str(p)), None)
    path = folder / "task.csv"
    path.write_text("input,output\n" + "\n".join(f"{x},{y}" for x, y in task.pairs))
    yield Format("task, CSV", path, lambda p: tv.Task.load(str(p)), None)


def _reports(folder: Path) -> Iterator[Format]:
    """Formats that are JSON with a checksum."""
    config = TransformerConfig(context=8, vocab=4, layers=1, d_model=8, heads=1)
    options = {"steps": 3, "report_every": 1, "progress": False}
    run = train(
        config, lambda _: torch.zeros(2, 9, dtype=torch.long), folder=folder / "run", **options
    )
    path = run.folder / "run.json"
    yield Format("run.json", path, lambda _: load_run(run.folder), lambda found: found.settings)
    yield Format("metrics.jsonl", run.folder / "metrics.jsonl", lambda _: run.metrics, list)
    model, task = (
        tiny.model("llama"),
        tv.Task("plural", [(f"{c}at", f"{c}ats") for c in "abcdefghijklmnopqrst"]),
    )
    tv.studies.vectors.run(
        model, [task], shots=2, contexts=2, progress=False, folder=folder / "study"
    )
    yield Format("report.json", folder / "study" / "report.json", read_claims, _claims)


def _claims(claims: list) -> Any:
    return [claim.to_dict() for claim in claims]


def _model_files(folder: Path) -> Iterator[Format]:
    model = folder / "model"
    torch.manual_seed(3)
    tiny._hugging_face("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        yield Format(f"model folder, {name}", model / name, lambda _: tv.load(model), None)
