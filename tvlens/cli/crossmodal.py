"""`tvlens crossmodal`: does a task move from words to pictures."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TvlensError
from ..signals import interruptible
from .common import LARGEST_SEED, ModelOption, OpenOption, OutOption, say


def crossmodal(
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="Task name or file; repeat; the preset's if none."),
    ] = None,
    model: ModelOption = "tiny-vlm",
    language_model: Annotated[
        str | None, typer.Option(help="The plain language model whose vectors are moved in.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="quick (three tasks), six, or full (nine tasks, three seeds).")
    ] = "quick",
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations a prompt.")] = 5,
    device_map: Annotated[
        str | None, typer.Option(help="Where a hub model's parts go, such as auto.")
    ] = None,
    four_bit: Annotated[
        bool, typer.Option("--four-bit", help="Load a hub model in four bits (bitsandbytes).")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of splits, draws and intervals.")
    ] = 0,
    out: OutOption = Path("out/crossmodal"),
    open_page: OpenOption = False,
) -> None:
    """Write vectors out of words into queries that are pictures, and the other way round."""
    from ..models.loading import load
    from ..studies import crossmodal as study

    options = {"preset": preset, "shots": shots, "seed": seed}
    with interruptible():
        opened = load(model, **_loading(device_map, four_bit))
        plain = None if language_model is None else load(language_model)
        result = study.run(opened, task, language_model=plain, folder=out, **options)
    shown = result.to_dataframe().query("query == 'image'")
    table = shown.pivot(index="condition", columns="task", values="first")
    table = table.reindex(list(dict.fromkeys(shown["condition"])))
    print(table.to_string(na_rep="", float_format=lambda v: f"{v:.2f}"))
    for claim in result.claims():
        print(f"{claim.verdict:8} {claim.claim} ({claim.found})")
    say(out, open_page)


def _loading(device_map: str | None, four_bit: bool) -> dict:
    """What Hugging Face is told about a model's weights."""
    options = {} if device_map is None else {"device_map": device_map}
    if not four_bit:
        return options
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TvlensError("--four-bit needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return options | {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
