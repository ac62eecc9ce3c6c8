"""`tvlens matrix`: does the task move to a finetuned twin."""

from pathlib import Path
from typing import Annotated

import typer

from ..signals import interruptible
from .common import LARGEST_SEED, OpenOption, OutOption, say


def matrix(
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help="Labelled dataset or hub id; repeatable."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Zoo name, hub id or folder; MiniLM or DINOv2 by the data if none."),
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option(help="Its finetuned twin; one is finetuned on each set if none."),
    ] = None,
    preset: Annotated[str, typer.Option(help="quick (three small sets) or full.")] = "quick",
    readout: Annotated[
        str | None, typer.Option(help="first, mean or last state, for a twin that is given.")
    ] = None,
    selection: Annotated[
        str, typer.Option(help="validation, or oracle: chosen on the test part.")
    ] = "validation",
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of splits, finetuning and draws.")
    ] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How often each twin is finetuned.")] = 1,
    lora: Annotated[
        int | None,
        typer.Option(min=1, help="Rank of low-rank adapters to compare with; needs peft."),
    ] = None,
    out: OutOption = Path("out/matrices"),
    open_page: OpenOption = False,
) -> None:
    """Fit linear maps from a base model to its finetuned twin; finished sets are kept."""
    from ..studies import matrices as study

    options = {"preset": preset, "readout": readout, "selection": selection, "seed": seed}
    options |= {"seeds": seeds, "lora": lora}
    with interruptible():
        result = study.run(base, tuned, data, folder=out, **options)
    shown = ["dataset", "layer", "base_probe", "task_matrix", "low", "high", "finetuned"]
    shown += ["share_of_gap", "lead", "lead_low", "lead_high", "verdict"]
    table = result.to_dataframe()[shown]
    print(table.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.2f}"))
    for claim in result.claims():
        print(f"{claim.verdict:8} {claim.claim} ({claim.found})")
    say(out, open_page)
