"""`tvlens patch`: activation patching over heads, layers and positions."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TvlensError
from ..signals import interruptible
from .options import ModelOption, OpenOption, OutputOption, print_output_paths, seed_option


def patch(
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="Task whose few-shot prompts are patched into prompts with shuffled labels.",
        ),
    ] = None,
    clean: Annotated[
        list[str] | None, typer.Option(help="Text whose activations are patched in; repeatable.")
    ] = None,
    corrupted: Annotated[
        list[str] | None, typer.Option(help="Text that is patched; one for each clean text.")
    ] = None,
    right: Annotated[str | None, typer.Option(help="Correct next token, such as ' Paris'.")] = None,
    wrong: Annotated[
        str | None,
        typer.Option(help="Wrong next token; the effect is then on the logit difference."),
    ] = None,
    model: ModelOption = "smollm2-135m",
    site: Annotated[
        str, typer.Option(help="Activation: z, resid_pre, attn_out, mlp_out, q, k, v ...")
    ] = "z",
    positions: Annotated[
        str, typer.Option(help="all (each alone), together, or positions such as -1 or 3,4.")
    ] = "-1",
    shots: Annotated[int, typer.Option(min=2, help="Demonstrations in each prompt.")] = 6,
    count: Annotated[int, typer.Option(min=1, help="Number of prompts of the task.")] = 10,
    seed: Annotated[int, seed_option("the prompts")] = 0,
    out: OutputOption = Path("out/patch"),
    open_page: OpenOption = False,
) -> None:
    """Patch every layer and head exactly, on prompts of a task or on pairs of texts."""
    from ..models.loading import load
    from ..sites import parse_site
    from ..studies import patching as study
    from ..tasks import Task

    parse_site(site)
    chosen_positions = _positions(positions)
    if (task is None) == (not (clean and corrupted and right)):
        raise TvlensError("give --task, or --clean, --corrupted and --right")
    chosen = Task.load(task) if task else None
    with interruptible():
        loaded = load(model)
        if chosen:
            pairs = study.from_task(loaded, chosen, shots=shots, count=count, seed=seed)
        else:
            pairs = study.from_texts(loaded, clean, corrupted, right=right, wrong=wrong)
        result = study.run(
            loaded, pairs, site=site, positions=chosen_positions, seed=seed, folder=out
        )
    print(result.result.top(12).to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print_output_paths(out, open_page=open_page)


def _positions(text: str) -> str | int | list[int] | None:
    """Convert --positions to the argument `positions` of `patch`."""
    if text in ("all", "together"):
        return None if text == "together" else "all"
    try:
        numbers = [int(number) for number in text.split(",")]
        return numbers if len(numbers) > 1 else numbers[0]
    except ValueError:
        raise TvlensError(f"--positions {text!r}: give all, together, or numbers") from None
