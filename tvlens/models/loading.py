"""`load`: open a model as a TransformerLens model."""

import contextlib
import os
import pkgutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import TvlensError, unknown
from . import zoo
from .boot import boot, from_module
from .compat import without_bars
from .damage import not_loaded
from .hooks import block_outputs
from .placement import check_device, read_dtype

# Further formats: a file that only such a folder contains -> its loader, as
# "module:function". The function takes the folder and `dtype=` and returns a Hugging Face model
# and its processor. It is imported when such a folder is opened.
LOADERS = {"tiny-vlm.json": "tvlens.vlm.checkpoint:load_checkpoint"}


def load(
    source: Any,
    *,
    processed: bool = False,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """Open a model with named hook points and return the TransformerLens model itself.

    Args:
        source: a zoo name (see `tvlens zoo`), a local Hugging Face folder, a hub id, a loaded
            Hugging Face model (wrapped in place), a `TransformerBridge`, or a
            `HookedTransformer` (TransformerLens 3.9); the last two are returned unchanged.
        processed: fold layer norms and centre weights (irreversible); raw weights by default.
        tokenizer: for a loaded Hugging Face model, which carries none.
        processor: processor of a loaded vision-language model, which includes its tokenizer.
        device: device of a model that is loaded; by default the accelerator if there is one.
        dtype: dtype of weights that are loaded, or its name such as "bfloat16".
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run code that comes with a hub model; off unless asked for.
        options: for Hugging Face's `from_pretrained` of a model given by name, such as `device_map`
            or `quantization_config`.

    Raises:
        TvlensError: no such model, damaged files, the hub cannot be reached, options for a loaded
            model, or a device or dtype that does not exist.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> logits, cache = model.run_with_cache("Q: cat A:")
        >>> cache["blocks.0.hook_resid_post"].shape[-1] == model.cfg.d_model
        True
    """
    check_device(device)
    dtype = read_dtype(dtype)
    # TransformerLens warns about its own deprecated parts while it builds a model.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(source, str | os.PathLike):
            model = _from_name(
                str(source),
                device=device,
                dtype=dtype,
                revision=revision,
                tokenizer=tokenizer,
                trust_remote_code=trust_remote_code,
                **options,
            )
        elif options:
            raise TvlensError(f"{next(iter(options))!r} is for models that are loaded by name")
        elif _is_hugging_face(source):
            model = from_module(source, tokenizer or getattr(processor, "tokenizer", None))
        elif hasattr(source, "hook_dict") and hasattr(source, "cfg"):
            model = source
        else:
            raise TvlensError(
                f"cannot load a {type(source).__name__}: give a name, a folder, a Hugging Face "
                "model, a TransformerBridge or a HookedTransformer"
            )
        if processor is not None:
            model.processor = processor
        if processed and not is_processed(model):
            _process(model)
        # Now, before hooks of the caller's own could see its forward pass. A model that does not
        # run on one token is asked again when it is needed.
        with contextlib.suppress(Exception):
            block_outputs(model)
    return model


def is_processed(model: Any) -> bool:
    """Whether layer norms were folded into the weights, which is not the default."""
    folded = getattr(model.cfg, "normalization_type", None) in ("LNPre", "RMSPre")
    return bool(getattr(model, "tvlens_processed", False)) or folded


def model_name(model: Any) -> str:
    """Return a model's name in results: zoo name, hub id, or the name in its config."""
    return getattr(model.cfg, "model_name", None) or type(model).__name__


def folder_of(name: str) -> str:
    """Return the folder or hub id that Hugging Face loads a model from.

    Raises:
        TvlensError: no such folder, or a name that is none of these.
    """
    if not name.strip():
        raise TvlensError("the name of the model is empty: give a zoo name, a hub id or a folder")
    if name in zoo.ZOO:
        return str(zoo.get(name))
    if os.path.isdir(name):
        return str(Path(name))
    if name.startswith((".", "/", "~")) or os.path.exists(name):
        raise TvlensError(f"no model folder at {name!r}")
    if "/" not in name and name not in _names_without_organisation():
        raise unknown("model", name, zoo.ZOO, hint="or give a hub id such as 'org/name'")
    return name


def _from_name(name: str, **options: Any) -> Any:
    folder = folder_of(name)
    if folder == name and not os.path.isdir(name):
        return _from_hub(name, **options)
    try:
        with without_bars():
            loader = _find_loader(folder)
            if loader is None:
                model = boot(folder, **options)
            else:
                model = _from_checkpoint(loader, folder, **options)
    except (TvlensError, NotImplementedError, ImportError, MemoryError):
        raise
    except Exception as error:  # tokenizers raises plain ones
        raise not_loaded(folder, error) from error
    model.cfg.model_name = name if name in zoo.ZOO else Path(name).resolve().name
    return model


def _from_hub(name: str, **options: Any) -> Any:
    try:
        return boot(name, **options)
    except (OSError, ConnectionError) as error:
        raise TvlensError(
            f"cannot get {name!r} from the hub ({_first_line(error)}); {zoo.cached_names()}"
        ) from error


def _names_without_organisation() -> set[str]:
    """Hub models of TransformerLens whose id has no organization."""
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    return {name for name in OFFICIAL_MODEL_NAMES if "/" not in name}


def _find_loader(folder: str) -> Callable | None:
    """Return the loader of a folder's format; None for Hugging Face's own."""
    for marker, loader in LOADERS.items():
        if (Path(folder) / marker).is_file():
            load: Callable = pkgutil.resolve_name(loader)
            return load
    return None


def _from_checkpoint(
    load_checkpoint: Callable,
    folder: str,
    *,
    device: str | torch.device | None,
    dtype: torch.dtype,
    **_: Any,
) -> Any:
    hf_model, processor = load_checkpoint(folder, dtype=dtype)
    model = from_module(hf_model.to(device or "cpu"), processor.tokenizer)
    model.processor = processor
    return model


def _is_hugging_face(source: Any) -> bool:
    import transformers

    return isinstance(source, transformers.PreTrainedModel)


def _process(model: Any) -> None:
    if not hasattr(model, "enable_compatibility_mode"):
        raise TvlensError(
            "this model's weights can only be processed when it is built: load it with "
            "fold_ln=True, center_writing_weights=True"
        )
    model.enable_compatibility_mode()
    model.tvlens_processed = True


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
