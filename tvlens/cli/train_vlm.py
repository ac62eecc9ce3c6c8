"""`tvlens train-vlm`: a small vision-language model that names pictures."""

from pathlib import Path
from typing import Annotated

import typer

from ..signals import interruptible
from .common import LARGEST_SEED, out_option


def train_vlm(
    out: Annotated[Path, out_option("Folder of the run; its model is in model/.")] = Path(
        "out/tiny-vlm"
    ),
    language: Annotated[
        str, typer.Option(help="What speaks: smollm2-135m, gemma3-270m, a folder or hub id.")
    ] = "smollm2-135m",
    placeholder: Annotated[
        str, typer.Option(help="A token of it that no text holds, where none is known.")
    ] = "",
    views: Annotated[int, typer.Option(min=1, help="Views of every training picture.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 10,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of the projector, views, parts and order.")
    ] = 0,
    device: Annotated[str, typer.Option(help="Where it computes, such as cuda.")] = "cpu",
) -> None:
    """Teach tiny-vlm (DINOv2-small, a projector, a language model) to name pictures; resumable."""
    from ..models.tiny_vlm import Form
    from ..training.naming import train_vlm as train

    with interruptible():
        form = Form(language=language, placeholder=placeholder)
        result = train(out, form=form, view_count=views, epochs=epochs, seed=seed, device=device)
    print(result.to_dataframe().to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print(f"\nmodel: {result.folder / 'model'}")
