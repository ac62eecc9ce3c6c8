"""`tvlens crossmodal`: transfer of task vectors between text and images."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TvlensError
from ..signals import interruptible
from .options import (
    ModelOption,
    OpenOption,
    OutputOption,
    ShotsOption,
    print_claims,
    print_output_paths,
    seed_option,
)


def crossmodal(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", help="Task name or file; repeatable. Default: those of the preset."
        ),
    ] = None,
    model: ModelOption = "tiny-vlm",
    language_model: Annotated[
        str | None,
        typer.Option(help="Language model of the model; its vectors are transferred, too."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="quick (three tasks), six, or full (nine tasks, three seeds).")
    ] = "quick",
    shots: ShotsOption = 5,
    device_map: Annotated[
        str | None, typer.Option(help="Placement of a hub model's layers, such as auto.")
    ] = None,
    four_bit: Annotated[
        bool, typer.Option("--four-bit", help="Load a hub model in four bits (needs bitsandbytes).")
    ] = False,
    seed: Annotated[int, seed_option("splits, contexts and controls")] = 0,
    out: OutputOption = Path("out/crossmodal"),
    open_page: OpenOption = False,
) -> None:
    """Transfer task vectors from text to image queries and back, with controls."""
    from ..models.loading import load
    from ..studies import crossmodal as study

    options = {"preset": preset, "shots": shots, "seed": seed}
    with interruptible():
        loaded = load(model, **_loading_options(device_map, four_bit))
        text_model = None if language_model is None else load(language_model)
        result = study.run(loaded, task, language_model=text_model, folder=out, **options)
    on_images = result.to_dataframe().query("query == 'image'")
    table = on_images.pivot(index="condition", columns="task", values="first")
    table = table.reindex(list(dict.fromkeys(on_images["condition"])))
    print(table.to_string(na_rep="", float_format=lambda v: f"{v:.2f}"))
    print_claims(result.claims)
    print_output_paths(out, open_page=open_page)


def _loading_options(device_map: str | None, four_bit: bool) -> dict:
    """Return options of `from_pretrained`."""
    options = {} if device_map is None else {"device_map": device_map}
    if not four_bit:
        return options
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TvlensError("--four-bit needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return options | {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
