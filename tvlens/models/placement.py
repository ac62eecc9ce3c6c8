"""Device and dtype of a model's weights, from text."""

import torch

from ..errors import TvlensError, unknown

# The usual names of the precisions that models run in.
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_SHORT = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_SHORT |= {"double": "float64", "float": "float32", "half": "float16"}


def read_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Convert "float32", "float16", "bfloat16" or "float64" to a dtype.

    Raises:
        TvlensError: no such precision, or one that no model runs in, such as integers.
    """
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    name = str(dtype).strip().lower().removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return DTYPES[name]


def check_device(device: str | int | torch.device | None) -> None:
    """Raise TvlensError unless a device ("cpu", "cuda", "cuda:1", "mps") is available.

    None is the accelerator if there is one.
    """
    if device is None:
        return
    here = available_devices()
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise unknown("device", device, here) from None
    if parsed.type in ("cpu", "cuda", "mps") and str(parsed) not in here:
        raise TvlensError(
            f"no device {str(device)!r} on this machine: choose from {', '.join(here)}"
        )


def available_devices() -> list[str]:
    """List the devices of this machine by PyTorch's names."""
    names = ["cpu", "cpu:0"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names += ["mps", "mps:0"]
    return names
