"""`tvlens train-vlm`: training of a small vision-language model that names images."""

from pathlib import Path
from typing import Annotated

import typer

from ..signals import interruptible
from .options import output_option, seed_option


def train_vlm(
    out: Annotated[Path, output_option("Folder of the run; its model is in model/.")] = Path(
        "out/tiny-vlm"
    ),
    language_model: Annotated[
        str,
        typer.Option(
            "--language-model",
            "--language",
            help="Zoo name, folder or hub id of a Llama or Gemma 3.",
        ),
    ] = "smollm2-135m",
    placeholder: Annotated[
        str,
        typer.Option(
            help="Token that stands for an image, if none is known for the language model."
        ),
    ] = "",
    views: Annotated[int, typer.Option(min=1, help="Augmented views of each training image.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs over the images.")] = 10,
    seed: Annotated[int, seed_option("the projector, views, splits and order")] = 0,
    device: Annotated[str, typer.Option(help="Device, such as cuda.")] = "cpu",
) -> None:
    """Train tiny-vlm (DINOv2-small, a projector, a language model) to name images; resumable."""
    from .. import vlm

    with interruptible():
        config = vlm.TinyVLMConfig(language_model=language_model, placeholder=placeholder)
        run = vlm.train_vlm(
            out, config=config, views=views, epochs=epochs, seed=seed, device=device
        )
    print(run.to_dataframe().to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print(f"\nmodel: {run.folder / 'model'}")
