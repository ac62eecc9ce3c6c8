"""Damaged files of every format: what loads is what was saved, or one line says why not."""

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
    """A kind of file: a good one, how it is loaded, and what must not change silently.

    Attributes:
        content: gives what a loaded value holds, as comparable data; None where the file is the
            user's own text or another library's, whose content nothing vouches for.
    """

    name: str
    path: Path
    load: Callable[[Path], Any]
    content: Callable[[Any], Any] | None


def damage(work: Path, count: int) -> Iterator[Trial]:
    """Damage each format's file so many times: a bit, a cut, a block, another file's bytes."""
    rng = random.Random("damage")
    formats = list(_formats(work))
    for one in formats:
        whole = one.path.read_bytes()
        expected = one.content(one.load(one.path)) if one.content else None
        for i in range(count):
            one.path.write_bytes(_damaged(whole, i, rng, formats))
            yield f"damaged file: {one.name}", _fault(one, expected)
        one.path.write_bytes(whole)


def _fault(one: Format, expected: Any) -> str | None:
    try:
        loaded = one.load(one.path)
    except TvlensError as error:
        lines = str(error).splitlines()
        return None if len(lines) == 1 else f"{len(lines)} lines: {error}"
    except BaseException as error:
        return f"raw {type(error).__name__}: {error}"[:200]
    if one.content and one.content(loaded) != expected:
        return "silently another content"
    return None


def _damaged(whole: bytes, i: int, rng: random.Random, formats: list[Format]) -> bytes:
    content = bytearray(whole)
    at = rng.randrange(len(content))
    kind = i % 8
    if kind < 4:  # one bit, half of them in the header
        at = rng.randrange(min(len(content), 400)) if kind < 2 else at
        content[at] ^= 1 << rng.randrange(8)
    elif kind == 4:
        del content[at:]
    elif kind == 5:
        content[at : at + 64] = rng.randbytes(64)
    elif kind == 6:
        content += rng.randbytes(rng.choice((1, 100)))
    else:
        other = rng.choice(formats).path.read_bytes()
        content = bytearray(other if other != whole else b"")
    return bytes(content)


def _formats(work: Path) -> Iterator[Format]:
    folder = work / "formats"
    folder.mkdir()
    seen = set()
    for name, result in every_result.results(folder).items():
        kind = type(result)
        if not hasattr(kind, "load") or kind in seen or hasattr(result, "folder"):
            continue  # what lives in a folder is loaded from there
        seen.add(kind)
        path = folder / f"{kind.__name__}.saved"
        result.save(path)
        yield Format(name, path, kind.load, _resaved(folder / "again"))
    path = folder / "states.safetensors"
    tv.collect(tiny.model("gpt2"), tiny.ragged("text"), file=path, progress=False)
    yield Format("Activations", path, Activations.load, _tensors)
    yield _checkpoint(folder)
    yield from _texts(folder)
    yield from _reports(folder)
    yield from _model_files(folder)


def _resaved(again: Path) -> Callable[[Any], bytes]:
    """What a result holds, as the bytes of its file: the same content is the same file."""

    def content(result: Any) -> bytes:
        result.save(again)
        return again.read_bytes()

    return content


def _tensors(found: Activations) -> Any:
    return {name: values.tolist() for name, values in found.items()}, found.lengths.tolist()


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
    """What is written as JSON with a checksum."""
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
