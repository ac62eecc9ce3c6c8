"""`tvlens patch`: which heads, layers and positions matter."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TvlensError
from ..signals import interruptible
from .common import LARGEST_SEED, ModelOption, OpenOption, OutOption, say


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
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the draw of prompts.")] = 0,
    out: OutOption = Path("out/patch"),
    open_page: OpenOption = False,
) -> None:
    """Patch every layer and head exactly, on a task's prompts or on two texts of your own."""
    from ..models.loading import load
    from ..sites import parse_site
    from ..studies import patching as study
    from ..tasks import Task

    parse_site(site)
    where = _positions(positions)
    if (task is None) == (not (clean and corrupted and right)):
        raise TvlensError("give --task, or --clean, --corrupted and --right")
    chosen = Task.load(task) if task else None
    with interruptible():
        loaded = load(model)
        if chosen:
            pairs = study.from_task(loaded, chosen, shots=shots, count=count, seed=seed)
        else:
            pairs = study.from_texts(loaded, clean, corrupted, right=right, wrong=wrong)
        result = study.run(loaded, pairs, site=site, positions=where, seed=seed, folder=out)
    print(result.result.top(12).to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    say(out, open_page)


def _positions(text: str) -> str | int | list[int] | None:
    """What --positions means: all of them in turn, all together, one, or some."""
    if text in ("all", "together"):
        return None if text == "together" else "all"
    try:
        numbers = [int(number) for number in text.split(",")]
        return numbers if len(numbers) > 1 else numbers[0]
    except ValueError:
        raise TvlensError(f"--positions {text!r}: give all, together, or numbers") from None
