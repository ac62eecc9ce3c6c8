"""The command line: `tvlens demo`, `vectors`, `methods`, `patch`, `train-vlm`, `zoo` and others."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .errors import TvlensError

app = typer.Typer(
    help="Find task vectors in transformers, measure their shape, test them, move them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
zoo_app = typer.Typer(help="Real weights that come as packages.", invoke_without_command=True)
app.add_typer(zoo_app, name="zoo")

DEMO_TASKS = ["singular-plural", "irregular-past", "first-letter", "country-capital"]

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Zoo name, hub id or local folder.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and numbers.")]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


@app.command()
def demo(out: OutOption = Path("out/demo"), open_page: OpenOption = False) -> None:
    """Find, test and show the vectors of four tasks in SmolLM2-135M."""
    _study("smollm2-135m", DEMO_TASKS, out=out, open_page=open_page)


@app.command()
def vectors(
    task: Annotated[
        list[str], typer.Option("--task", "-t", help="Catalogue name or file; repeat for more.")
    ],
    model: ModelOption = "smollm2-135m",
    template: Annotated[
        str, typer.Option(help="qa, arrow, colon, or a text with {x}, {y}.")
    ] = "qa",
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations per context.")] = 6,
    contexts: Annotated[int, typer.Option(min=1, help="Contexts averaged.")] = 20,
    seed: Annotated[int, typer.Option(help="Of splits, contexts and controls.")] = 0,
    processed: Annotated[bool, typer.Option(help="Fold norms, centre weights.")] = False,
    out: OutOption = Path("out/vectors"),
    open_page: OpenOption = False,
) -> None:
    """Extract and evaluate task vectors; a table here, a page and a JSON in a folder."""
    options = {"template": template, "shots": shots, "contexts": contexts, "seed": seed}
    _study(model, task, out=out, open_page=open_page, processed=processed, **options)


@app.command()
def methods(
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="Catalogue name or file; the whole catalogue if none."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Repeat for more; all if none.")
    ] = None,
    model: ModelOption = "smollm2-135m",
    items: Annotated[int, typer.Option(min=2, help="At most so many test items a task.")] = 40,
    seed: Annotated[int, typer.Option(help="Of splits, contexts and controls.")] = 0,
    out: OutOption = Path("out/methods"),
    open_page: OpenOption = False,
) -> None:
    """Compare every way of extracting a task vector; finished ones are kept in the folder."""
    from .models.load import load
    from .studies import methods as study
    from .tasks import Task

    chosen = [Task.load(name) for name in task] if task else None
    options = {"methods": method} if method else {}
    study.check(chosen, **options)
    with _interruptible():
        result = study.run(load(model), chosen, items=items, seed=seed, folder=out, **options)
    print(result.table().to_string(float_format=lambda v: f"{v:.2f}"))
    _say(out, open_page)


@app.command()
def patch(
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="Few-shot prompts against shuffled labels."),
    ] = None,
    clean: Annotated[
        list[str] | None, typer.Option(help="Text patched from; repeat for more.")
    ] = None,
    corrupted: Annotated[
        list[str] | None, typer.Option(help="Text patched into; as many as clean ones.")
    ] = None,
    right: Annotated[str | None, typer.Option(help="Token that should follow, ' Paris'.")] = None,
    wrong: Annotated[str | None, typer.Option(help="Token to tell it from.")] = None,
    model: ModelOption = "smollm2-135m",
    site: Annotated[str, typer.Option(help="z, resid_pre, attn_out, mlp_out, q, k, v ...")] = "z",
    positions: Annotated[
        str, typer.Option(help="all, together, or numbers such as -1 or 3,4.")
    ] = "-1",
    shots: Annotated[int, typer.Option(min=2, help="Demonstrations a prompt.")] = 6,
    count: Annotated[int, typer.Option(min=1, help="Prompts of the task.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the draw of prompts.")] = 0,
    out: OutOption = Path("out/patch"),
    open_page: OpenOption = False,
) -> None:
    """Patch every layer and head exactly, on a task's prompts or on two texts of your own."""
    from .models.load import load
    from .sites import component
    from .studies import patching as study
    from .tasks import Task

    component(site)
    where = _positions(positions)
    if (task is None) == (not (clean and corrupted and right)):
        raise TvlensError("give --task, or --clean, --corrupted and --right")
    chosen = Task.load(task) if task else None
    with _interruptible():
        loaded = load(model)
        if chosen:
            pairs = study.from_task(loaded, chosen, shots=shots, count=count, seed=seed)
        else:
            pairs = study.from_texts(loaded, clean, corrupted, right=right, wrong=wrong)
        result = study.run(loaded, pairs, site=site, positions=where, seed=seed, folder=out)
    print(result.result.top(12).to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    _say(out, open_page)


def _positions(text: str) -> str | int | list[int] | None:
    """What --positions means: all of them in turn, all together, one, or some."""
    if text in ("all", "together"):
        return None if text == "together" else "all"
    try:
        numbers = [int(number) for number in text.split(",")]
        return numbers if len(numbers) > 1 else numbers[0]
    except ValueError:
        raise TvlensError(f"--positions {text!r}: give all, together, or numbers") from None


@app.command()
def mixtures(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", help="Tasks on the same inputs, a,b or a,b,c; repeat for more sets."
        ),
    ] = None,
    model: ModelOption = "smollm2-135m",
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations a prompt.")] = 6,
    count: Annotated[int, typer.Option(min=2, help="Mixed prompts a set of tasks.")] = 252,
    noise: Annotated[float, typer.Option(help="Share of wrong labels Bayes reckons with.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of splits, prompts and controls.")] = 0,
    out: OutOption = Path("out/mixtures"),
    open_page: OpenOption = False,
) -> None:
    """Mix demonstrations of tasks: do states and answers follow the posterior over tasks?"""
    from .models.load import load
    from .studies import mixtures as study
    from .tasks import Task

    sets = [[Task.load(name) for name in names.split(",")] for names in task or []]
    options = {"shots": shots, "count": count, "noise": noise, "seed": seed}
    with _interruptible():
        result = study.run(load(model), sets or study.MIXTURES, folder=out, **options)
    print(result.to_dataframe().to_string(index=False, float_format=lambda v: f"{v:.2f}"))
    _say(out, open_page)


@app.command("train-vlm")
def train_vlm(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; its model is in model/.")
    ] = Path("out/tiny-vlm"),
    views: Annotated[int, typer.Option(min=1, help="Views of every training picture.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the projector, views, parts and order.")] = 0,
) -> None:
    """Teach tiny-vlm (DINOv2-small, a projector, SmolLM2) to name pictures; resumable."""
    from .training.naming import train_vlm as train

    with _interruptible():
        result = train(out, view_count=views, epochs=epochs, seed=seed)
    print(result.to_dataframe().to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print(f"\nmodel: {result.folder / 'model'}")


@app.command()
def tasks() -> None:
    """List the catalogue of tasks."""
    from .tasks import Task

    for name in Task.names():
        found = Task.load(name)
        x, y = found.pairs[0]
        print(f"{name:18} {len(found):4} pairs  {found.description} ({x} -> {y})")


@zoo_app.callback()
def zoo_list(context: typer.Context) -> None:
    """List the zoo: names, sizes, licences, and what is in the cache."""
    if context.invoked_subcommand:
        return
    from .models import zoo

    for entry in zoo.ZOO.values():
        where = "in the cache" if zoo.at_hand(entry.name) else f"{entry.download_mb} MB to fetch"
        size = f"{entry.disk_mb:5} MB on disk"
        print(f"{entry.name:14} {where:16} {size}  {entry.licence:18} {entry.description}")
    print(f"cache: {zoo.cache_folder()}")


@zoo_app.command("get")
def zoo_get(name: Annotated[str, typer.Argument(help="A name of the zoo.")]) -> None:
    """Fetch a zoo model, check it, and convert it into the cache."""
    from .models import zoo

    with _interruptible():
        print(zoo.get(name))


def _study(model_name: str, tasks: list[str], *, out: Path, open_page: bool, **options) -> None:
    """Run a study of vectors, print its table, and say where the page is."""
    from .models.load import load
    from .studies import vectors as study
    from .tasks import Task, Template

    # Names are checked before the model is fetched: a typing error should cost a moment.
    chosen = [Task.load(name) for name in tasks]
    Template.of(options.get("template", "qa"))
    with _interruptible():
        model = load(model_name, processed=options.pop("processed", False))
        result = study.run(model, chosen, folder=out, **options)
    print(_table(result))
    _say(out, open_page)


def _say(out: Path, open_page: bool) -> None:
    """Say where the page and the numbers are, and show the page if asked."""
    page = (out / "index.html").resolve()
    print(f"\npage:    {page}\nnumbers: {page.with_name('report.json')}")
    if open_page:
        _open(page)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C in long work is one line, not a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ntvlens: interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(2) from None


def _table(study) -> str:
    """First-token accuracies on the test part, a row per task."""
    import pandas as pd

    rows = []
    for name, report in study.reports.items():
        low, high = report.interval
        row = {"task": name, "n": report.conditions["vector"].count, "layer": report.layer}
        row |= {"zero-shot": report.zero_shot, "vector": report.accuracy}
        row |= {"95%": f"[{low:.2f}, {high:.2f}]", "whole answer": report.full_accuracy}
        row |= {"few-shot": report.few_shot} | report.controls
        rows.append(row)
    return pd.DataFrame(rows).to_string(index=False, float_format=lambda v: f"{v:.2f}")


def _open(page: Path) -> None:
    """Open a page where there is a screen to show it on."""
    import os
    import webbrowser

    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform != "linux" or screen:
        webbrowser.open(page.as_uri())


def main() -> None:
    """Entry point: mistakes of the caller are one line and exit status 2."""
    try:
        app()
    except TvlensError as error:
        print(f"tvlens: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
