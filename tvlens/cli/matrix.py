"""`tvlens matrix`: linear maps from a base model to its finetuned version."""

from pathlib import Path
from typing import Annotated

import typer

from ..signals import interruptible
from .options import OpenOption, OutputOption, print_output_paths, seed_option


def matrix(
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="Labelled dataset or hub id; repeatable. Default: those of the preset.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Zoo name, hub id or folder of the base model. Default: MiniLM or DINOv2."
        ),
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option(help="Finetuned model. Default: the base model is finetuned on each dataset."),
    ] = None,
    preset: Annotated[str, typer.Option(help="quick (three small datasets) or full.")] = "quick",
    readout: Annotated[
        str | None,
        typer.Option(help="Pooling of the states of a given finetuned model: first, mean or last."),
    ] = None,
    selection: Annotated[
        str,
        typer.Option(help="Part that chooses layer and penalty: validation, or oracle (test)."),
    ] = "validation",
    seed: Annotated[int, seed_option("splits, finetuning and controls")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Finetuning runs per dataset.")] = 1,
    lora: Annotated[
        int | None,
        typer.Option(min=1, help="Rank of low-rank adapters as a baseline (needs peft)."),
    ] = None,
    out: OutputOption = Path("out/matrices"),
    open_page: OpenOption = False,
) -> None:
    """Fit task matrices: linear maps from a base model to its finetuned version."""
    from ..studies import matrices as study
    from ..studies.claims import summarize_claims

    options = {"preset": preset, "readout": readout, "selection": selection, "seed": seed}
    options |= {"seeds": seeds, "lora": lora}
    with interruptible():
        result = study.run(base, tuned, data, folder=out, **options)
    columns = ["dataset", "layer", "probe", "task_matrix", "low", "high", "finetuned"]
    columns += ["gap_recovered", "difference", "difference_low", "difference_high", "verdict"]
    table = result.to_dataframe()[columns]
    print(table.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.2f}"))
    for claim in summarize_claims(result.claims, over="dataset"):
        print(f"{claim['verdict']:12} {claim['statement']}")
    print_output_paths(out, open_page=open_page)
