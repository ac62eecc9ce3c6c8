"""Bad command lines: exit status 2, one line, no files written."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

from .children import command_line, run

Trial = tuple[str, str | None]


def command_lines(work: Path, count: int) -> Iterator[Trial]:
    """Try up to `count` bad command lines in a new folder."""
    folder = work / "lines"
    folder.mkdir()
    lines = list(_make_lines(work, folder))
    if count < len(lines):
        lines = random.Random("lines").sample(lines, count)
    before = _list_files(folder)
    for line in lines[:count]:
        call = command_line(*line)

        def call_in_folder(call=call) -> None:
            os.chdir(folder)
            call()

        ended = run(call_in_folder, timeout=120)
        fault = ended.fault(2)
        if fault is None and (new := _list_files(folder) - before):
            fault = f"wrote {sorted(new)[0]}"
        yield "bad command line", fault and f"tvlens {' '.join(map(repr, line))}: {fault}"
        before = _list_files(folder)


def _list_files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def _make_lines(work: Path, folder: Path) -> Iterator[list[str]]:
    model, task = str(work / "model"), str(work / "plural.csv")
    (folder / "file").write_text("")
    (folder / "link").symlink_to(folder / "nowhere")
    (folder / "empty").mkdir()
    (folder / "no-model").mkdir()
    (folder / "no-model" / "config.json").write_text("{}")
    bad = {name: folder / f"{name}.json" for name in ("deep", "null", "list", "latin", "empty")}
    bad["deep"].write_text("[" * 100_000)
    bad["null"].write_text("null")
    bad["list"].write_text('[["a"]]')
    bad["latin"].write_bytes(b'[["\xff", "b"]]')
    bad["empty"].write_text("")
    images = {"pairs": [["a", "b"]], "images": {"a": "nowhere.png"}}
    (folder / "images.json").write_text(json.dumps(images))
    rows = [[f"{c}at", f"{c}ats"] for c in "abcdefghijklmnopqrst"]
    (folder / "number.json").write_text(json.dumps({"name": 3, "pairs": rows}))
    tasks = [str(p) for p in bad.values()]
    tasks += [str(folder / name) for name in ("images.json", "number.json")]
    tasks += ["", "nowhere.csv", "nowhere.json", "antonim", ".", "/", str(folder / "file")]
    models = ["smolm2-135m", "./nowhere", str(folder / "empty"), str(folder / "no-model")]
    models += [str(work / "bert"), str(folder / "file"), "", "no/such/model", "/dev/null", "."]
    outputs = ["file", "file/below", "link", "link/below", "/proc/self/x", "/dev/null", "o" * 300]
    vectors = ["vectors", "-m", model, "-t", task, "--shots", "2", "--contexts", "2", "-o", "out"]
    patch = ["patch", "-m", model, "-o", "out"]
    texts = ["--clean", "Q: cat", "--corrupted", "Q: dog", "--right", "s"]
    mixtures = ["mixtures", "-m", model, "-o", "out", "--shots", "2", "--count", "4"]
    yield from (["vectors", "-m", model, "-t", name, "-o", "out"] for name in tasks)
    yield from (["mixtures", "-m", model, "-t", f"{task},{n}", "-o", "out"] for n in tasks[:8])
    yield from (["vectors", "-m", name, "-t", task, "-o", "out"] for name in models)
    yield from (["patch", "-m", name, *texts, "-o", "out"] for name in models)
    yield from ([*vectors[:-1], name] for name in outputs)
    yield from ([*patch[:-1], name, *texts] for name in outputs)
    yield from ([*mixtures[:4], name, "-t", f"{task},{task}"] for name in outputs)
    yield from (["latent", "--preset", "tiny", "-o", name] for name in outputs)
    yield from (["matrix", "-o", name] for name in outputs)
    yield from (["train-vlm", "-o", name] for name in outputs[:3])
    yield [*vectors[:-1], ""]
    seeds = [["--seed", "-1"], ["--seed", "x"], ["--seed", "1e3"], ["--seed", str(-(2**70))]]
    sizes = [["--shots", "0"], ["--shots", "-3"], ["--contexts", "0"], ["--shots", "99"]]
    templates = ["{x} \\u12 {y}", "", "{x}", "{x", "{x!r} {y}", "qaa", "{0} {y}"]
    yield from ([*vectors, *more] for more in seeds + sizes)
    yield from ([*vectors, "--template", text] for text in templates)
    wrong = [["--site", "zz"], ["--positions", "last"], ["--positions", "9999"], ["--site", ""]]
    wrong += [["--right", ""], ["--right", "two words of it"], ["--clean", "other"], ["-t", task]]
    yield from ([*patch, *texts, *more] for more in wrong)
    yield from ([*patch, *more] for more in ([], ["--clean", "a"], ["-t", "antonim"]))
    wrong = [["--count", "1"], ["--noise", "2"], ["--noise", "nan"], ["--seed", "-1"], []]
    yield from ([*mixtures, "-t", task, *more] for more in wrong)
    wrong = [["--preset", "quik"], ["--minor", "a"], ["--family", "dise"], ["--seeds", "0"]]
    wrong += [["--steps", "0"], ["--jobs", "0"], ["--minor", "-1"], ["--minor", ""]]
    yield from (["latent", "-o", "out", *more] for more in wrong)
    wrong = [["--preset", "quik"], ["-d", "emoji-word"], ["--selection", "test"], ["--seed", "-1"]]
    wrong += [["--lora", "0"], ["--seeds", "0"], ["--base", "./nowhere"]]
    yield from (["matrix", "-o", "out", *more] for more in wrong)
    yield from (["zoo", "get", name] for name in ("minilm", "", "../x", "tiny-vlm\0"))
    yield from ([], ["vector"], ["--nothing"], ["vectors"], ["zoo", "put"], ["methods", "-t", task])
    yield ["methods", "--method", "stat"]
    yield ["train-vlm", "--device", "gpu9", "-o", "out"]
