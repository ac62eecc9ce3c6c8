"""`EncoderExamples`: labelled inputs of an encoder, and the batches of an epoch."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..labelled import LabelledDataset
from ..models.inputs import image_settings, token_rows
from ..models.processor import preprocess_images

# Random offset of lengths, in tokens, before rows are sorted by length.
_JITTER = 4.0


@dataclass(frozen=True)
class EncoderExamples:
    """Rows with their classes.

    Attributes:
        rows: token ids of each text, or images.
        labels: class of each row.
        image_settings: size, mean and standard deviation of images; empty for texts.
    """

    rows: list
    labels: Int[Tensor, " row"]
    image_settings: dict

    @classmethod
    def from_dataset(
        cls, data: LabelledDataset, model: Any, tokenizer: Any, *, max_tokens: int
    ) -> "EncoderExamples":
        """Convert the rows of a labelled dataset to inputs of `model`."""
        labels = torch.tensor(data.labels)
        if data.kind == "image":
            return cls(list(data.inputs), labels, image_settings(model.config))
        return cls(token_rows(tokenizer, data.inputs, max_tokens=max_tokens), labels, {})

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, *, seed: int | None = None) -> list[list[int]]:
        """Divide rows into batches of similar length; random, or in a fixed order.

        A seed adds random offsets of up to four tokens to the lengths before they are sorted, so
        that batches differ between epochs and still contain little padding.
        """
        lengths = np.array([len(row) for row in self.rows], dtype=float)
        if seed is None:
            order = np.argsort(lengths, kind="stable")
            return [order[i : i + size].tolist() for i in range(0, len(order), size)]
        rng = np.random.default_rng(seed)
        order = np.argsort(lengths + rng.uniform(0, _JITTER, len(lengths)))
        parts = [order[i : i + size].tolist() for i in range(0, len(order), size)]
        return [parts[i] for i in rng.permutation(len(parts))]

    def inputs(self, indices: list[int], device: torch.device) -> dict[str, Tensor]:
        """Build the keyword arguments of a Hugging Face model for these rows."""
        rows = [self.rows[i] for i in indices]
        if self.image_settings:
            return {"pixel_values": preprocess_images(rows, **self.image_settings).to(device)}
        rows = [torch.tensor(row) for row in rows]
        # Padding is masked, whatever its token.
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return {"input_ids": padded.to(device), "attention_mask": mask.to(device)}


def digest_rows(*parts: LabelledDataset) -> str:
    """Compute a digest of rows and labels."""
    digest = hashlib.sha256()
    for part in parts:
        for row, label in zip(part.inputs, part.labels, strict=True):
            content = row.encode() if isinstance(row, str) else row.tobytes()
            digest.update(b"%d %d " % (label, len(content)) + content)
    return digest.hexdigest()[:16]
