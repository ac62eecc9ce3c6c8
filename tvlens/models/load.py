"""`load`: any model, as the TransformerLens model itself."""

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import TvlensError, unknown
from . import encoders, zoo
from .processor import load_processor


def load(
    source: Any,
    *,
    processed: bool = False,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """Open a model with named hook points and return the TransformerLens model itself.

    Args:
        source: a zoo name (see `tvlens zoo`), a local Hugging Face folder, a hub id, a loaded
            Hugging Face model (wrapped in place), a `TransformerBridge`, or a
            `HookedTransformer` (TransformerLens 3.9); the last two come back as they are.
        processed: fold layer norms and centre weights (irreversible); raw weights by default.
        tokenizer: for a loaded Hugging Face model, which carries none.
        processor: of a loaded vision-language model, likewise; its tokenizer is taken too.
        device: where to put a model that is read from disk; the accelerator if there is one.
        dtype: of the weights read from disk.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run code that comes with a hub model; off unless asked for.
        options: for Hugging Face's `from_pretrained` of a model given by name, such as `device_map`
            or `quantization_config`.

    Raises:
        TvlensError: no such model, the hub cannot be reached, or options for a loaded model.
    """
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
            model = _from_module(source, tokenizer or getattr(processor, "tokenizer", None))
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
    return model


def is_processed(model: Any) -> bool:
    """Whether layer norms were folded into the weights (a model is raw unless it was asked)."""
    folded = getattr(model.cfg, "normalization_type", None) in ("LNPre", "RMSPre")
    return bool(getattr(model, "tvlens_processed", False)) or folded


def model_name(model: Any) -> str:
    """The name a model goes by in results: zoo name, hub id, or what its config says."""
    return getattr(model.cfg, "model_name", None) or type(model).__name__


def folder_of(name: str) -> str:
    """Where Hugging Face finds the model called `name`: the folder of a zoo model or of the user,
    or a hub id.

    Raises:
        TvlensError: no such folder, or a name that is none of these.
    """
    if name in zoo.ZOO:
        return str(zoo.get(name))
    if Path(name).is_dir():
        return str(Path(name))
    if name.startswith((".", "/", "~")) or Path(name).exists():
        raise TvlensError(f"no model folder at {name!r}")
    if "/" not in name and name not in _names_without_organisation():
        raise unknown("model", name, zoo.ZOO, hint="or give a hub id such as 'org/name'")
    return name


def _from_name(name: str, **options: Any) -> Any:
    folder = folder_of(name)
    if folder == name and not Path(name).is_dir():
        return _from_hub(name, **options)
    with without_bars():
        model = _tiny_vlm(folder, **options) if _is_tiny_vlm(folder) else _boot(folder, **options)
    model.cfg.model_name = name if name in zoo.ZOO else Path(name).resolve().name
    return model


def _from_hub(name: str, **options: Any) -> Any:
    try:
        return _boot(name, **options)
    except (OSError, ConnectionError) as error:
        raise TvlensError(
            f"cannot get {name!r} from the hub ({_first_line(error)}); {zoo.cached_names()}"
        ) from error


def _names_without_organisation() -> set[str]:
    """Hub models whose id has no organisation, which TransformerLens knows."""
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    return {name for name in OFFICIAL_MODEL_NAMES if "/" not in name}


def _boot(
    name: str,
    *,
    tokenizer: Any,
    device: str | torch.device | None,
    dtype: torch.dtype,
    revision: str | None,
    trust_remote_code: bool,
    **loading: Any,
) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    architecture = _architecture(name, options)
    if architecture:
        source = _pretrained(
            name, encoders.model_class(architecture), device, dtype, options, loading
        )
        model = _from_module(source, _as_trained(tokenizer or tokenizer_of(name, **options)))
        # Else `to_tokens` would cut the token that ends a text, which a language model must not
        # see, but an encoder must.
        model.cfg.tokenizer_appends_eos = False
        if getattr(model.cfg, "is_multimodal", False):
            model.processor = load_processor(name, **options)
    else:
        if loading:
            from transformers import AutoModelForCausalLM

            loading = {
                "hf_model": _pretrained(name, AutoModelForCausalLM, device, dtype, options, loading)
            }
        model = TransformerBridge.boot_transformers(
            name, device=device, dtype=dtype, tokenizer=tokenizer, **options, **loading
        )
        encoders.count_positions(model.original_model, model.cfg)
    model.cfg.tvlens_revision = revision
    return model.eval()


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """TransformerLens refuses models that also watch videos where torchvision is missing; pictures
    do without, by way of Pillow.
    """
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

    check = getattr(ArchitectureAdapter, "_check_required_libraries", None)
    if check is None:  # TransformerLens 3.9
        yield
        return

    def check_others(self: Any) -> None:
        self.required_libraries = [n for n in self.required_libraries if n != "torchvision"]
        check(self)

    ArchitectureAdapter._check_required_libraries = check_others
    try:
        yield
    finally:
        ArchitectureAdapter._check_required_libraries = check


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars of Hugging Face about reading and writing a folder, which takes a moment and
    would stay on the page of every notebook.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _is_tiny_vlm(folder: str) -> bool:
    from .tiny_vlm import is_saved

    return is_saved(folder)


def _tiny_vlm(
    folder: str, *, device: str | torch.device | None, dtype: torch.dtype, **_: Any
) -> Any:
    from . import tiny_vlm

    hf_model, processor = tiny_vlm.open_saved(folder, dtype=dtype)
    model = _from_module(hf_model.to(device or "cpu"), processor.tokenizer)
    model.processor = processor
    return model


def _architecture(name: str, options: dict) -> str | None:
    """The architecture of a model on disk or on the hub, if it is one that is opened here.

    TransformerLens would go by the family alone, and give a classifier another model's head; and
    where the processor of a vision-language model asks for torchvision, it would install that,
    and with it another torch.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(name, **options)
    named = (config.architectures or [""])[0]
    return named if named in encoders.register() or hasattr(config, "vision_config") else None


def _pretrained(
    name: str,
    cls: Any,
    device: str | torch.device | None,
    dtype: torch.dtype,
    options: dict,
    loading: dict,
) -> Any:
    model = cls.from_pretrained(name, dtype=dtype, **options, **loading)
    # Where a map of devices or a quantiser has put it, it stays.
    if "device_map" in loading or "quantization_config" in loading:
        return model
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def tokenizer_of(name: str, **options: Any) -> Any:
    """The tokenizer of a folder or hub id, or None where there is none."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError):  # a folder of weights alone: tokens can still be given
        return None


def _as_trained(tokenizer: Any) -> Any:
    """A tokenizer that TransformerLens takes as it is.

    It sets others up anew, to begin texts with a first token, and loses the token that ends them.
    """
    if tokenizer is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer


def _is_hugging_face(source: Any) -> bool:
    import transformers

    return isinstance(source, transformers.PreTrainedModel)


def _from_module(hf_model: Any, tokenizer: Any) -> Any:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    encoders.register()
    if type(hf_model).__name__.startswith("Pictured"):
        from . import tiny_vlm

        tiny_vlm.register()
    # Fused attention never materialises the attention pattern, so its hook would never fire.
    hf_model.set_attn_implementation("eager")
    name = Path(getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__).name
    with _without_torchvision():
        bridge = build_bridge_from_module(
            hf_model,
            type(hf_model).__name__,
            hf_config=hf_model.config,
            tokenizer=tokenizer,
            model_name=name,
        )
    encoders.count_positions(hf_model, bridge.cfg)
    return bridge.eval()


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
